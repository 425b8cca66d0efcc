"""Two real llama.cpp servers, the built gateway in front of them, and a key: what every client test starts from.

`direct` is the address of a server, `through` that of the gateway; a test that compares asks both.
"""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import httpx2
import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent.parent
BINARY = os.environ.get("GATEWAY_BIN", str(ROOT / "target" / "debug" / "tidegate"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command, log, **more):
    """A child that writes to `log` and is gone afterwards, whatever happened."""
    with open(log, "wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **more)
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def behind_a_key(direct, key_and_hash, folder, who, filters):
    """A gateway before `direct` with these filters behind the one that knows the key; gives its address and its admin's."""
    port, admin = free_port(), free_port()
    config, log = folder / f"behind-{port}.yaml", folder / f"behind-{port}.log"
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: 127.0.0.1:{admin} }}
filters:
  - api_key: {{ keys: [ {{ id: clients, hash: "{key_and_hash[1]}", {who} }} ] }}
  - {filters}
pools:
  chat: {{ backends: [{direct}] }}
""")
    with process([BINARY, "run", "--config", str(config)], log) as child:
        wait_for(f"http://127.0.0.1:{admin}/readyz", child, log)
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"


def wait_for(url, child, log):
    """Until `url` answers 200; a child that dies or hangs fails with what it said."""
    end = time.monotonic() + 30
    while time.monotonic() < end and child.poll() is None:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(url).status_code == 200:
                return
        time.sleep(0.02)
    pytest.fail(f"{url} never answered; its process said:\n{pathlib.Path(log).read_text()}", pytrace=False)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tidegate")


@pytest.fixture(scope="session")
def model_file(folder):
    path = folder / "tiny.gguf"
    subprocess.run([sys.executable, HERE / "make_model.py", path], check=True)
    return path


@contextlib.contextmanager
def llama(model_file, folder, name, *options):
    """A llama.cpp server; gives its address."""
    port, log = free_port(), folder / f"{name}.log"
    command = [sys.executable, HERE / "serve.py", model_file, str(port), "--alias", name, *options]
    with process(command, log) as child:
        wait_for(f"http://127.0.0.1:{port}/health", child, log)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def direct(model_file, folder):
    """The chat server, without a gateway."""
    with llama(model_file, folder, "tiny-random") as url:
        yield url


@pytest.fixture(scope="session")
def direct_embed(model_file, folder):
    """The embedding server, without a gateway."""
    with llama(model_file, folder, "tiny-embed", "--embed") as url:
        yield url


@pytest.fixture(scope="session")
def key_and_hash():
    """A key as `tidegate keys new` prints it, and the hash that goes into the file."""
    made = subprocess.run([BINARY, "keys", "new", "--id", "clients"], check=True, capture_output=True, text=True)
    text = made.stdout + made.stderr
    return re.search(r"^tg-\w+", text, re.M).group(), re.search(r'hash: "?(\w+)"?', text).group(1)


@pytest.fixture(scope="session")
def key(key_and_hash):
    return key_and_hash[0]


@pytest.fixture(scope="session")
def gateway_log(folder):
    return folder / "gateway.log"


@pytest.fixture(scope="session")
def admin():
    """Where the gateway's admin listener is."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def through(direct, direct_embed, key_and_hash, folder, gateway_log, admin):
    """The gateway in front of both servers."""
    port = free_port()
    config = folder / "gateway.yaml"
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: {admin} }}
log: {{ format: json }}
filters:
  - api_key: {{ keys: [ {{ id: clients, hash: "{key_and_hash[1]}", user: clients }} ] }}
models:
  tiny-random: {{ pool: chat }}
  gpt-4o-mini: {{ pool: chat, as: tiny-random }}
  tiny-embed: {{ pool: embed }}
pools:
  chat: {{ signals: {{ every: 200ms }}, backends: [{direct}] }}
  embed: {{ backends: [{direct_embed}] }}
""")
    with process([BINARY, "run", "--config", str(config)], gateway_log) as child:
        wait_for(f"http://{admin}/readyz", child, gateway_log)
        yield f"http://127.0.0.1:{port}"
        assert child.poll() is None, "the gateway died:\n" + gateway_log.read_text()


@pytest.fixture(scope="session")
def authorized(key):
    return {"authorization": f"Bearer {key}"}
