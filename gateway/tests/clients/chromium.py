"""Debian's Chromium without a window, spoken to over its own protocol: a page is opened, looked at, clicked and photographed.

It reaches nothing but this machine, and every address that it asks for is kept, so that a test can say there were no others.
"""

import base64
import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

import httpx2
from websockets.sync.client import connect

PROGRAM = shutil.which("chromium")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync
--disable-component-update --disable-default-apps --disable-extensions --hide-scrollbars --remote-debugging-port=0""".split()
# No name leads anywhere: the network is cut off.
CUT_OFF = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


class Page:
    """One tab."""

    def __init__(self, socket):
        self.socket, self.numbers = socket, itertools.count(1)
        self.asked, self.complaints = [], []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.heard(message)

    def heard(self, message):
        method, told = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(told["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def eval(self, script):
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script, patience=60):
        """Waits until `script` is true, and gives what it is."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if found := self.eval(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never: {script}\n{self.eval('document.body.innerText')}\n{self.complaints}")

    def look(self, width, height, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def key(self, name, text=""):
        code = {"Tab": 9, "Enter": 13, " ": 32}.get(name, 0)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **more)

    def photograph(self, path):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser():
    """A fresh one, with a page to begin with."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [PROGRAM, *FLAGS, CUT_OFF, f"--user-data-dir={folder}", "about:blank"]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            told, end = pathlib.Path(folder, "DevToolsActivePort"), time.monotonic() + 60
            while not (told.exists() and "\n" in told.read_text()):
                assert child.poll() is None and time.monotonic() < end, "chromium did not start"
                time.sleep(0.05)
            port = told.read_text().split("\n")[0]
            tabs = httpx2.get(f"http://127.0.0.1:{port}/json/list", timeout=30).json()
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(address, max_size=None, open_timeout=30) as socket:
                yield Page(socket)
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
