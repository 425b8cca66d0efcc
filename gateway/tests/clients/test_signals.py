"""What a real engine tells of its own load, as the gateway reads it."""

import re
import threading
import time

import httpx2


def readings(admin, outcome):
    metrics = httpx2.get(f"http://{admin}/metrics").text
    line = re.search(rf'^tidegate_backend_signals_total{{.*outcome="{outcome}",pool="chat"}} (\d+)', metrics, re.M)
    return int(line.group(1)) if line else 0


def test_llama_cpp_tells_of_the_requests_that_others_send_it(direct, through, admin):
    end = time.monotonic() + 10
    while readings(admin, "read") < 2:
        assert time.monotonic() < end, "its metrics were never read"
        time.sleep(0.05)
    # Not through the gateway: somebody else's load.
    stop = threading.Event()
    call = {"model": "tiny-random", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 400}

    def others():
        while not stop.is_set():
            httpx2.post(f"{direct}/v1/chat/completions", json=call, timeout=60)

    threads = [threading.Thread(target=others) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        end, most = time.monotonic() + 20, 0
        while most < 2 and time.monotonic() < end:
            backends = httpx2.get(f"http://{admin}/admin/backends").json()["chat"]["backends"]
            most = max([most, *(backend["elsewhere"] for backend in backends.values())])
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert most >= 2, most
