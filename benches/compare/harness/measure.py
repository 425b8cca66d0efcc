"""One scenario on one server: the load is run, and what it says is joined with what the kernel says."""

import contextlib
import json
import os
import subprocess
import time

from harness import machine, processes, slow
from harness.server import pinned


def one(scenario, target, server, own, mock_pid, core):
    """What came of it, as one flat record; `load` in it is what the load said."""
    if scenario.kind == "start":
        return {"ready_ms": server.ready_ms, "memory_kib": server.idle_kib}
    processes.settle(server.pids)
    if scenario.kind == "limit":
        _within_a_minute(scenario.seconds + 2)
    beside = slow.readers(server) if scenario.kind == "slow" else contextlib.nullcontext(lambda: None)
    with beside as alive:
        if scenario.kind == "slow":
            time.sleep(1.0)
        before = processes.cpu_seconds([mock_pid])
        said, memory, busy, wall = _load(scenario, target, server, own, core)
        mock = processes.cpu_seconds([mock_pid]) - before
        served = alive()
    if scenario.kind in ("whole", "open", "stream") and said["requests"] > 5000 and mock * 1e6 < said["requests"]:
        raise RuntimeError("its answers did not come from the backend")
    record = _flat(scenario, said)
    record |= {
        "memory_kib": memory,
        "asking_busy": (busy + mock) / wall,
        "mock_us": mock * 1e6 / max(1, _all_requests(said) * wall / max(said["seconds"], 0.001)),
        "machine_load": machine.load(),
    }
    grown = memory - (server.idle_kib or 0)
    # Where hardly a token comes, there are hardly streams.
    if server.idle_kib and scenario.kind == "paced" and record["events_per_second"] > 0.1 * scenario.asked:
        record["kib_per_stream"] = grown / scenario.streams
    if served is not None:
        record |= {"slow_served": served, "grown_kib": grown if server.idle_kib else None}
    return record | {"load": said}


def _within_a_minute(seconds):
    """Some limiters count by the clock's minutes: none must end while one looks."""
    left = 60 - time.time() % 60
    if left < seconds:
        time.sleep(left + 0.1)


def _load(scenario, target, server, own, core):
    command = [own / "tidegate-bench-load", "--url", server.url, "--json", *scenario.arguments]
    command += ["--duration", scenario.duration, "--warmup", scenario.warmup, "--ramp", scenario.ramp]
    if scenario.kind in ("limit", "open"):
        command += ["--rate", target.rate if scenario.kind == "limit" else target.rate // 2]
    for pid in server.pids:
        command += ["--pid", pid]
    if server.key:
        command += ["--key", server.key]
    for header in server.headers:
        command += ["--header", header]
    began = time.monotonic()
    process = subprocess.Popen(pinned(core, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        # Late enough that all is open, early enough that nothing has begun to close.
        time.sleep(scenario.seconds - 0.3 * scenario.duration)
        memory = processes.memory_kib(server.pids)
        spent_before = os.times()
        out, errors = process.communicate(timeout=scenario.seconds + 30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeError("the load did not end") from None
    spent = os.times()
    busy = spent.children_user + spent.children_system - spent_before.children_user - spent_before.children_system
    if not out.strip():
        raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else "the load said nothing")
    return json.loads(out), memory, busy, time.monotonic() - began


def _refused(said):
    return said["errors"].get("4xx", 0)


def _all_requests(said):
    return said["requests"] + _refused(said)


def _flat(scenario, said):
    """The numbers of the tables."""
    spent, refused = said.get("server"), _refused(said) if scenario.kind == "limit" else 0
    errors = sum(said["errors"].values()) - refused
    record = {
        "rps": said["requests_per_second"],
        "errors": errors,
        "errors_by_kind": {kind: count for kind, count in said["errors"].items() if not (refused and kind == "4xx")},
    }
    # Of nothing there is no median.
    if said["requests"]:
        record |= {"p50_us": said["latency_us"]["p50"], "p99_us": said["latency_us"]["p99"]}
    if scenario.kind == "limit":
        record["refused"] = refused / max(1, said["requests"] + refused)
    streams = said.get("streams")
    if streams:
        record["events_per_second"] = streams["events_per_second"]
    if streams and streams["events"]:
        record |= {
            "first_p50_us": streams["first_token_us"]["p50"],
            "first_p99_us": streams["first_token_us"]["p99"],
            "gap_p99_us": streams["between_tokens_us"]["p99"],
        }
    if spent:
        record |= _cpu(scenario, said, spent, refused, streams)
    return record


def _cpu(scenario, said, spent, refused, streams):
    total = spent["cpu_ns"] / 1000
    ticks = max(1, spent["user_ticks"] + spent["system_ticks"])
    done = said["requests"] + refused
    cpu = {"cpus": spent["cpus"], "user_share": spent["user_ticks"] / ticks}
    if scenario.kind == "paced":
        # Few streams end while one looks: their tokens are what is counted.
        return cpu | ({"cpu_us_event": total / streams["events"]} if streams["events"] else {})
    if done:
        cpu["cpu_us"] = total / done
    if streams and streams["events"]:
        cpu["cpu_us_event"] = total / streams["events"]
    return cpu
