"""A real collector takes the gateway's traces: rotel, which prints what it has understood."""

import importlib.util
import pathlib
import re
import time

import httpx2
import pytest

from conftest import BINARY, free_port, process, wait_for

ROTEL = importlib.util.find_spec("rotel")


def collector(http):
    agent = pathlib.Path(ROTEL.submodule_search_locations[0]) / "rotel-agent"
    addresses = ["--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"]
    printing = ["--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"]
    return [str(agent), "start", *addresses, *printing]


def spans(printed):
    """What the collector has understood: of each span its name, its id, its parent's, and its attributes."""
    found = []
    for part in re.split(r"^Span #\d+$", printed, flags=re.M)[1:]:
        field = lambda name, part=part: re.search(rf"^ +{name} *: (.*)$", part, re.M).group(1).strip()
        attributes = dict(re.findall(r"^ +-> ([\w.]+): \w+\((.*)\)$", part, re.M))
        names = {"name": "Name", "id": "ID", "parent": "Parent ID", "trace": "Trace ID", "kind": "Kind"}
        found.append({**{key: field(name) for key, name in names.items()}, "attributes": attributes})
    return found


@pytest.mark.skipif(ROTEL is None, reason="rotel is not installed: see .ci/prepare clients")
def test_a_collector_understands_the_spans_of_a_stream(direct, folder):
    http, port, admin = free_port(), free_port(), free_port()
    config, log, printed = folder / "traced.yaml", folder / "traced.log", folder / "rotel.log"
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: 127.0.0.1:{admin} }}
traces: {{ endpoint: "http://127.0.0.1:{http}", every: 50ms, resource: {{ region: here }} }}
pools:
  chat: {{ usage: ask, backends: [{direct}] }}
""")
    run = [BINARY, "run", "--config", str(config)]
    with process(collector(http), printed), process(run, log) as gateway:
        wait_for(f"http://127.0.0.1:{admin}/readyz", gateway, log)
        trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
        call = {"model": "tiny-random", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": True}
        answer = httpx2.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json=call,
            headers={"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "to-be-traced"},
        )
        assert answer.status_code == 200 and answer.text.rstrip().endswith("[DONE]")
        end = time.monotonic() + 30
        # The last of what is said of the last span.
        while time.monotonic() < end and "tidegate.resumed" not in printed.read_text():
            time.sleep(0.05)
        told = httpx2.get(f"http://127.0.0.1:{admin}/admin/requests/to-be-traced").json()
    text = printed.read_text()
    understood = {span["name"].split()[0]: span for span in spans(text)}
    assert {"chat", "attempt", "first_token", "stream"} <= understood.keys(), text
    root, attempt = understood["chat"], understood["attempt"]
    assert (root["trace"], root["parent"], root["kind"]) == (trace, parent, "SPAN_KIND_SERVER"), root
    assert attempt["parent"] == root["id"] and understood["stream"]["parent"] == attempt["id"], understood
    # The trace has the numbers of the other views.
    tokens = told["tokens"]
    counted = (root["attributes"]["gen_ai.usage.input_tokens"], root["attributes"]["gen_ai.usage.output_tokens"])
    assert counted == (str(tokens["prompt"]), str(tokens["completion"])), (root, told)
    assert "region: Str(here)" in text and "service.name: Str(tidegate)" in text, text
