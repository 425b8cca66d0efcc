"""openai-python over a connection that is killed: with an Idempotency-Key the call is run once, wherever it is cut."""

import contextlib
import http.server
import json
import socket
import threading
import time

import openai
import pytest
from conftest import BINARY, free_port, process, wait_for

HI = [{"role": "user", "content": "hi"}]
WORDS = [f"word{n} " for n in range(20)]


class Backend(http.server.ThreadingHTTPServer):
    """Streams a few words slowly, and counts the calls."""

    daemon_threads = True
    calls = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.server.calls += 1
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in WORDS:
            self.chunk({"delta": {"content": word}, "finish_reason": None})
            time.sleep(0.005)
        self.chunk({"delta": {}, "finish_reason": "stop"})
        self.raw("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, choice):
        event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, **choice}]}
        self.raw(f"data: {json.dumps(event)}\n\n")

    def raw(self, text):
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        self.wfile.flush()


class Cutter:
    """Passes bytes on; the first connection is reset after so many bytes of the answer."""

    def __init__(self, port, after):
        self.port, self.after, self.cuts = port, after, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                left = self.after if self.cuts == 0 else None
                self.cuts += 1
                threading.Thread(target=self.pump, args=(client, server, None), daemon=True).start()
                threading.Thread(target=self.pump, args=(server, client, left), daemon=True).start()

    def pump(self, source, sink, left):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if left is not None:
                    data, left = data[:left], left - len(data)
                sink.sendall(data)
                if left is not None and left <= 0:
                    # A reset, not an end: there is no mistaking it for one.
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def backend():
    server = Backend(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module", params=["join", "refuse"])
def gateway(request, backend, tmp_path_factory):
    folder, port, admin = tmp_path_factory.mktemp("idempotency"), free_port(), free_port()
    config, log = folder / "gateway.yaml", folder / "log"
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: 127.0.0.1:{admin} }}
filters:
  - idempotency: {{ while_running: {request.param} }}
pools:
  main: {{ health: off, backends: ["http://127.0.0.1:{backend.server_port}"] }}
""")
    with process([BINARY, "run", "--config", str(config)], log) as child:
        wait_for(f"http://127.0.0.1:{admin}/readyz", child, log)
        yield port


# Where the answer is cut: before its head, within it, and at eight points of its stream of some four kilobytes.
POINTS = [0, 20, 400, 700, 1000, 1500, 2000, 2500, 3000, 3500]


@pytest.mark.parametrize("after", POINTS)
def test_a_stream_that_is_cut_is_run_once_and_read_whole_the_second_time(gateway, backend, after):
    before, cutter = backend.calls, Cutter(gateway, after)
    client = openai.OpenAI(base_url=cutter.url, api_key="none", max_retries=4)
    text, tries = "", 0
    while not text.endswith(WORDS[-1]):
        tries += 1
        assert tries < 4
        text = ""
        # What the SDK has begun to read it does not ask for again by itself: its user does, with the same key.
        with contextlib.suppress(Exception):
            stream = client.chat.completions.create(
                model="m", messages=HI, stream=True, extra_headers={"Idempotency-Key": f"point-{gateway}-{after}"}
            )
            for chunk in stream:
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert text == "".join(WORDS)
    assert cutter.cuts >= 2, "it was never cut"
    assert backend.calls == before + 1, "it was run more than once"
    if after <= 20:
        assert tries == 1, "the SDK's own retries should have found the answer"
