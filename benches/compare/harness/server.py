"""A server that runs: its configuration filled in, on a core of its own, up to the first answer it gave."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import time

from harness import machine, processes
from harness.install import Missing
from harness.places import CACHE, PEERS
from harness.scenarios import LIMIT_SECONDS

BODY = '{"model":"mock-whole-504","temperature":0.7,"messages":[{"role":"user","content":"Are you there?"}]}'
PEER = ("peer.toml", "README.md")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def pinned(core, command):
    return ["taskset", "-c", str(core), *map(str, command)]


class Server:
    """What is measured, between its start and its end."""

    def __init__(self, url, pids, key, headers):
        self.url, self.pids, self.key, self.headers = url, pids, key, headers
        self.ready_ms = self.idle_kib = None


@contextlib.contextmanager
def mock(own, core):
    """The model server; gives its address and its process."""
    command = pinned(core, [own / "tidegate-bench-mock", "--listen", "127.0.0.1:0"])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        _end(process)


@contextlib.contextmanager
def serving(target, mode, folder, backend, core, secrets):
    """A target in front of the mock, ready."""
    address, mock_pid = backend
    if target.kind == "floor":
        yield Server(f"http://{address}{target.path}", [mock_pid], None, [])
        return
    port = free_port()
    values = _values(target, mode, folder, address, port, secrets)
    run = _render(target, mode, values)
    values["DIR"] = str(run)
    command = [_fill(part, values) for part in target.command + target.modes[mode]]
    environment = {**os.environ, **{name: _fill(value, values) for name, value in target.env.items()}}
    said = run / "stderr"
    began = time.monotonic()
    with said.open("w") as errors:
        # Lines of access logs go to stdout, and are written but not kept.
        process = subprocess.Popen(
            pinned(core, command), cwd=run, env=environment, stdout=subprocess.DEVNULL, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
    try:
        server = Server(f"http://127.0.0.1:{port}{target.path}", [process.pid], secrets["key"] if target.key else None,
                        [_fill(header, values) for header in target.headers])  # fmt: skip
        _wait(process, server, port, target, said)
        server.ready_ms = (time.monotonic() - began) * 1000
        server.pids = processes.tree(process.pid)
        processes.settle(server.pids)
        server.idle_kib = processes.memory_kib(server.pids)
        yield server
    finally:
        _end(process)


def _values(target, mode, folder, address, port, secrets):
    return {
        "BIN": str(folder), "MODE": mode, "PORT": str(port), "ADMIN": str(free_port()), "MOCK": address,
        "MOCK_HOST": address.split(":")[0], "MOCK_PORT": address.split(":")[1], "KEY": secrets["key"],
        "FILES": str(machine.files()), "STREAMS": str(machine.files() // 2 - 100), "HASH": secrets["hash"], "LIMIT": str(target.rate // 2), "LIMIT_A_MINUTE": str(round(target.rate * LIMIT_SECONDS / 2)),
    }  # fmt: skip


def _fill(text, values):
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _render(target, mode, values):
    """The peer's files with ports and keys in them, in a folder of this run."""
    run = CACHE / "run" / f"{target.name}-{mode}"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    values = {**values, "DIR": str(run)}
    for file in (PEERS / target.peer).iterdir():
        if file.is_file() and file.name not in PEER:
            (run / file.name).write_text(_fill(file.read_text(), values))
    return run


def _wait(process, server, port, target, said):
    """Until it has answered a request: it is ready when it serves."""
    headers = {"content-type": "application/json"}
    if server.key:
        headers["authorization"] = f"Bearer {server.key}"
    headers |= dict(header.split(": ", 1) for header in server.headers)
    end, last = time.monotonic() + target.patience, "nothing listened"
    while time.monotonic() < end:
        if process.poll() is not None:
            lines = said.read_text(errors="replace").strip().splitlines()
            raise Missing(f"it ended at its start: {lines[-1][:200] if lines else process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", target.path, BODY, headers)
            answer = connection.getresponse()
            told = answer.read()
            if answer.status == 200:
                return
            last = f"{answer.status} {told[:160].decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            last = str(error) or type(error).__name__
        finally:
            connection.close()
        time.sleep(0.002)
    raise Missing(f"it did not answer within {target.patience:.0f} s: {last}")


def _end(process):
    """Ends a server and all that it has started: each has a session of its own."""
    for which, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, which)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
