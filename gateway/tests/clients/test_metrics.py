"""What Prometheus' own tool thinks of the metrics, after traffic that has filled most of them."""

import shutil
import subprocess

import httpx2
import pytest


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed: see .ci/prepare promtool")
def test_promtool_finds_no_fault_with_the_metrics(through, authorized, admin):
    for stream in (False, True):
        call = {"model": "tiny-random", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": stream}
        answer = httpx2.post(f"{through}/v1/chat/completions", json=call, headers=authorized)
        assert answer.status_code == 200
    metrics = httpx2.get(f"http://{admin}/metrics").text
    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr
