"""Each expression of the dashboard is asked of a real Prometheus that scrapes the gateway under load, and has an answer."""

import contextlib
import json
import math
import re
import shutil
import threading
import time

import httpx2
import pytest
from conftest import BINARY, ROOT, free_port, process, wait_for

DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/tidegate.json").read_text())
WINDOW = "5s"

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed: see .ci/prepare clients")


def expressions():
    """Those of the panels, by title, and those of the annotations."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def asked(expression):
    """As Grafana would ask it, with everything chosen."""
    return re.sub(r"\$(route|pool|instance)", ".*", expression.replace("$__rate_interval", WINDOW))


@pytest.fixture
def scraped(direct, folder):
    """A gateway that has something to count of each kind; gives its address, its admin's and the Prometheus that scrapes it."""
    port, admin, away, prometheus = (free_port() for _ in range(4))
    config, log = folder / "dashboard.yaml", folder / "dashboard.log"
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: 127.0.0.1:{admin} }}
log: {{ format: json, sample: {{ share: 10% }} }}
prices: {{ models: {{ "*": {{ prompt: 2, completion: 8 }} }} }}
filters:
  - limits: [ {{ per: global, requests: 1/h, burst: 1, models: [limited] }}, {{ per: ip, tokens: 10M/s }} ]
  - idempotency: {{ scope: global }}
  - shared_flight: {{ scope: global }}
  - prompt_cache: {{ for: 2s, scope: global }}
models:
  plain: {{ pool: chat, as: tiny-random }}
  limited: {{ pool: chat, as: tiny-random }}
  shared: {{ pool: chat, as: tiny-random }}
  cached: {{ pool: chat, as: tiny-random }}
  waiting: {{ pool: narrow, as: tiny-random }}
  failing: {{ pool: broken, as: tiny-random, fallback: [chat] }}
  lost: {{ pool: broken, as: tiny-random }}
pools:
  chat: {{ backends: [{direct}] }}
  narrow: {{ backends: [ {{ url: {direct}, max_in_flight: 1 }} ] }}
  broken: {{ health: off, breaker: {{ pause: 200ms }}, backends: [http://127.0.0.1:{away}] }}
""")
    scrape = folder / "prometheus.yml"
    scrape.write_text(f"""\
global: {{ scrape_interval: 500ms, evaluation_interval: 500ms }}
scrape_configs:
  - job_name: tidegate
    static_configs: [ {{ targets: ["127.0.0.1:{admin}"] }} ]
""")
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(process([BINARY, "run", "--config", str(config)], log))
        wait_for(f"http://127.0.0.1:{admin}/livez", child, log)
        command = ["prometheus", f"--config.file={scrape}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{prometheus}"]
        child = stack.enter_context(process(command, folder / "prometheus.log"))
        wait_for(f"http://127.0.0.1:{prometheus}/-/ready", child, folder / "prometheus.log")
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{prometheus}"


def load(url, admin, number, stop):
    """One client that goes through everything the gateway does, again and again."""
    turn = 0
    with httpx2.Client(base_url=url, timeout=30) as client:
        while not stop.is_set():
            turn += 1
            for model in ("plain", "limited", "shared", "cached", "waiting", "failing", "lost"):
                for stream in (False, True):
                    # What is shared and kept asks the same; the rest asks anew.
                    words = "hi" if model in ("shared", "cached") else f"hi {number} {turn}"
                    call = {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": 4, "temperature": 0, "stream": stream}
                    client.post("/v1/chat/completions", json=call)
            call = {"model": "plain", "messages": [{"role": "user", "content": "once"}], "max_tokens": 2}
            client.post("/v1/chat/completions", json=call, headers={"Idempotency-Key": f"k-{turn // 2}"})
            client.get("/v1/nothing")
            if number == 0:
                httpx2.post(f"{admin}/admin/reload")


def has_answer(prometheus, expression):
    answer = httpx2.get(f"{prometheus}/api/v1/query", params={"query": asked(expression)}).json()
    assert answer["status"] == "success", (expression, answer)
    return any(not math.isnan(float(row["value"][1])) for row in answer["data"]["result"])


def test_every_panel_has_something_to_show(scraped):
    url, admin, prometheus = scraped
    stop = threading.Event()
    clients = [threading.Thread(target=load, args=(url, admin, number, stop)) for number in range(4)]
    for client in clients:
        client.start()
    try:
        empty, end = list(expressions()), time.monotonic() + 120
        assert len(empty) > 80
        while empty and time.monotonic() < end:
            time.sleep(0.5)
            empty = [(title, expression) for title, expression in empty if not has_answer(prometheus, expression)]
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert not empty, "\n".join(f"{title}: {asked(expression)}" for title, expression in empty)
    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
        values = httpx2.get(f"{prometheus}/api/v1/label/{label}/values", params={"match[]": metric}).json()["data"]
        assert values, variable


def test_each_panel_says_what_it_shows_and_has_its_place():
    places = set()
    for panel in DASHBOARD["panels"]:
        place = (panel["gridPos"]["x"], panel["gridPos"]["y"])
        assert place not in places, panel["title"]
        places.add(place)
        assert panel["type"] == "row" or panel["description"] and panel["targets"], panel["title"]
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Tokens and cost", "Limits", "Cache", "Upstreams", "Process"]
