"""The built gateway under callgrind, between a mock and a load: what `road` and `growth` count with.

Instructions in user space do not depend on how busy the machine is.
"""

import collections
import contextlib
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ["tidegate", "tidegate-bench-mock", "tidegate-bench-load"]


def programs(folder):
    """Where the programs are: `folder`, or as they are built here."""
    if folder:
        return folder.resolve()
    command = ["cargo", "build", "-q", "--profile", "counted", *(f"-p={package}" for package in PACKAGES)]
    subprocess.check_call(command, cwd=ROOT)
    return ROOT / "target/counted"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Tools:
    """The programs, a mock that answers, and a key."""

    def __init__(self, folder, address="127.0.0.1:0"):
        self.folder, self.scratch = folder, tempfile.TemporaryDirectory(prefix="counted-")
        command = [folder / "tidegate-bench-mock", "--listen", address]
        self.mock = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.backend = self.mock.stdout.readline().strip()
        keys = [folder / "tidegate", "keys"]
        quiet = {"stderr": subprocess.DEVNULL, "text": True}
        self.key = subprocess.check_output([*keys, "new", "--id", "bench"], **quiet).strip()
        self.hash = subprocess.check_output([*keys, "hash"], input=self.key, **quiet).strip()

    def close(self):
        self.mock.kill()
        self.mock.wait()
        self.scratch.cleanup()

    def load(self, port, asked, requests, key=True):
        """Asks so many times, one after the other unless `asked` says how many at once."""
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        command = [self.folder / "tidegate-bench-load", "--url", url, "--requests", str(requests), "--json", *asked]
        command += ["--key", self.key] if key else []
        command += [] if "--streams" in asked or "--connections" in asked else ["--connections", "1"]
        said = json.loads(subprocess.check_output(command, text=True))
        if said["errors"]:
            sys.exit(f"errors: {said['errors']}")


class Gateway:
    """One that runs, under callgrind unless it is to run as it is."""

    def __init__(self, tools, configuration, counted=True):
        """`configuration` has @PORT@, @ADMIN@, @HASH@, @MOCK@, @MOCK_PORT@ and @DIR@ in it."""
        self.tools, self.port, self.admin = tools, free_port(), free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=tools.scratch.name))
        self.file = self.folder / "gateway.yaml"
        self.write(configuration)
        command = [tools.folder / "tidegate", "run", "--config", self.file]
        if counted:
            out = f"--callgrind-out-file={self.folder}/out"
            command = ["valgrind", "-q", "--tool=callgrind", out, *command]
        self.log, self.parts, self.profile, self.took = self.folder / "log", 0, None, 0.0
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def write(self, configuration):
        """Another file in the place of the one it began with."""
        values = {"PORT": self.port, "ADMIN": self.admin, "HASH": self.tools.hash, "MOCK": self.tools.backend}
        values |= {"MOCK_PORT": self.tools.backend.rsplit(":", 1)[1], "DIR": self.folder}
        for name, value in values.items():
            configuration = configuration.replace(f"@{name}@", str(value))
        self.file.write_text(configuration)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _wait(self):
        for _ in range(1500):
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            with contextlib.suppress(OSError):
                if self.ask("/readyz").status == 200:
                    return
            time.sleep(0.2)
        sys.exit("the gateway does not get ready")

    def ask(self, path, method="GET"):
        """What its listener for operators answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", method=method)
        return urllib.request.urlopen(request, timeout=300)

    def load(self, asked, requests, key=True):
        self.tools.load(self.port, asked, requests, key)

    def zero(self):
        """Counts from here on."""
        self._tell("zero")

    def spent(self):
        """Instructions since the counts were last told or begun anew, by function."""
        self._tell("dump")
        self.parts += 1
        return read(self.folder / f"out.{self.parts}")

    def _tell(self, what):
        command = ["vgdb", f"--pid={self.process.pid}", "--wait=60", what]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def resident(self):
        """KiB of memory."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def busy(self):
        """Nanoseconds of processor time, of all threads."""
        return sum(int(file.read_text().split()[0]) for file in pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"))

    def close(self):
        """Ends it, as SIGINT does: at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def counted(self):
        """Ends it, and tells what it has taken from its beginning, by function."""
        self.close()
        return read(self.folder / "out")


def read(path):
    """A callgrind file: instructions of each function itself, and with what it calls."""
    names, own, called, function, is_call = {}, collections.Counter(), collections.Counter(), None, False

    def name(text):
        number, text = re.match(r"\((\d+)\)(?: (.*))?$", text).groups()
        return names.setdefault(number, text)

    for line in path.read_text().splitlines():
        if line.startswith("fn="):
            function = name(line[3:])
        elif line.startswith("cfn="):
            callee = name(line[4:])
        elif line.startswith("calls="):
            is_call = True
        elif function and line and line[0] in "0123456789+-*":
            cost = int(line.split()[1])
            if not is_call:
                own[function] += cost
            elif callee != function:
                called[function] += cost
            is_call = False
    return own, called + own
