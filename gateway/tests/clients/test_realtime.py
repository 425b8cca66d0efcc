"""A real WebSocket client under limits of turns, against a scripted realtime server."""

import json
import threading

import httpx2
import pytest
from conftest import BINARY, free_port, process, wait_for
from websockets.sync.client import connect
from websockets.sync.server import serve


def answer(socket):
    """Begins and ends a response for each that is asked for; gives back whatever else comes."""
    for text in socket:
        event = json.loads(text)
        if event["type"] == "response.create":
            usage = {"total_tokens": 30, "input_tokens": 10, "output_tokens": 20}
            socket.send(json.dumps({"type": "response.created", "response": {"status": "in_progress"}}))
            socket.send(json.dumps({"type": "response.output_text.delta", "delta": "word " * 500}))
            socket.send(json.dumps({"type": "response.done", "response": {"status": "completed", "usage": usage}}))
        else:
            socket.send(text)


@pytest.fixture
def realtime(folder):
    """A realtime server behind a gateway with these limits; gives the gateway's port and its admin's."""
    server = serve(answer, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, admin = free_port(), free_port()
    config, log = folder / f"realtime-{port}.yaml", folder / f"realtime-{port}.log"
    backend = server.socket.getsockname()[1]
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: 127.0.0.1:{admin} }}
filters:
  - limits: [ {{ per: global, requests: 4/h, tokens: 10k/h }} ]
pools:
  main: {{ health: off, backends: [http://127.0.0.1:{backend}] }}
""")
    with process([BINARY, "run", "--config", str(config)], log) as child:
        wait_for(f"http://127.0.0.1:{admin}/livez", child, log)
        yield port, admin
    server.shutdown()


def test_turns_are_limited_and_the_connection_stays(realtime):
    port, admin = realtime
    with connect(f"ws://127.0.0.1:{port}/v1/realtime?model=m") as socket:
        for _ in range(3):
            socket.send(json.dumps({"type": "response.create", "response": {"max_output_tokens": 100}}))
            assert [json.loads(socket.recv())["type"].split(".")[-1] for _ in range(3)] == ["created", "delta", "done"]
        socket.send(json.dumps({"type": "response.create", "event_id": "mine"}))
        told = json.loads(socket.recv())
        assert told["type"] == "error" and told["error"]["code"] == "rate_limit_exceeded"
        assert told["error"]["event_id"] == "mine"
        item = {"type": "conversation.item.create", "item": {"text": "x" * 100_000}}
        socket.send(json.dumps(item))
        assert json.loads(socket.recv()) == item
        assert socket.ping().wait(5)
    buckets = httpx2.get(f"http://127.0.0.1:{admin}/admin/limits/global").json()["buckets"]
    left = {bucket["kind"]: bucket["left"] for bucket in buckets}
    assert left["requests"] == 0 and 10_000 - 90 <= left["tokens"] <= 10_000 - 80
