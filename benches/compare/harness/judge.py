"""What the numbers say of Tidegate: which bars hold, and where somebody is ahead of it. Both are told as they come out."""

from harness.stats import ratio

OURS, BARE = "tidegate-full", "tidegate"
LEVEL = 0.05
"""Less than this apart, two are level: rounds lie further apart than that."""

# What is compared in each kind of scenario: the number, what it is called, and whether less of it is better.
MEASURES = {
    "start": [("ready_ms", "start", True), ("memory_kib", "idle memory", True)],
    "whole": [
        ("cpu_us", "CPU", True), ("rps", "requests/s", False), ("p50_us", "p50", True), ("p99_us", "p99", True),
        ("memory_kib", "memory", True),
    ],
    "open": [("cpu_us", "CPU", True), ("p50_us", "p50", True), ("p99_us", "p99", True)],
    "cache": [("cpu_us", "CPU", True), ("rps", "requests/s", False), ("p50_us", "p50", True), ("p99_us", "p99", True)],
    "stream": [
        ("cpu_us_event", "CPU", True), ("events_per_second", "events/s", False), ("first_p50_us", "first token p50", True),
        ("first_p99_us", "first token p99", True), ("p99_us", "whole p99", True), ("memory_kib", "memory", True),
    ],
    "paced": [
        ("cpu_us_event", "CPU", True), ("kib_per_stream", "memory", True), ("first_p50_us", "first token p50", True),
        ("first_p99_us", "first token p99", True), ("gap_p99_us", "gap p99", True),
    ],
    "slow": [("cpu_us_event", "CPU", True), ("grown_kib", "memory above idle", True), ("p99_us", "p99", True)],
    "limit": [("cpu_us", "CPU", True), ("p50_us", "p50", True), ("p99_us", "p99", True)],
}


def ahead(result, found):
    """Every line in which somebody is ahead: scenario, measure, our value, and who, with their values."""
    targets = [one for one in result["targets"] if one["kind"] in ("proxy", "gateway")]
    lines = []
    for scenario in result["scenarios"]:
        values = found.get(scenario["name"], {})
        own = values.get(OURS, {})
        for name, called, less in MEASURES[scenario["kind"]]:
            if own.get(name) is None:
                continue
            better = [one for one in targets if _better(values.get(one["name"], {}), own, name, less)]
            if better:
                who = [(one, values[one["name"]][name]) for one in better]
                lines.append((scenario, called, name, own[name], sorted(who, key=lambda pair: pair[1], reverse=not less)))
    return lines


def _better(other, own, name, less):
    value = other.get(name)
    # Who answers with errors, or to a fraction of what is asked, is ahead of nobody.
    if value is None or other.get("errors", 0) > own.get("errors", 0) + 10 or not _keeps_up(other, own):
        return False
    share = ratio(value, own[name])
    return share is not None and (share < 1 - LEVEL if less else share > 1 + LEVEL)


def _keeps_up(other, own):
    mine, theirs = own.get("events_per_second"), other.get("events_per_second")
    return not mine or not theirs or theirs > 0.5 * mine


def _value(found, scenario, target, name):
    return found.get(scenario, {}).get(target, {}).get(name)


def bars(found, counted=None):
    """The bars that are measured here, or were `counted` before: what it is, the bar, what came out, and whether it holds."""
    counted = counted or {}
    full = lambda scenario, name: _value(found, scenario, OURS, name)  # noqa: E731
    bare = lambda scenario, name: _value(found, scenario, BARE, name)  # noqa: E731
    direct = lambda scenario, name: _value(found, scenario, "direct", name)  # noqa: E731
    one, first = full("whole-1k-32", "cpu_us"), full("paced-500", "first_p99_us")
    more, less = ratio(full("whole-32k-32", "cpu_us"), one), ratio(full("whole-1k-32", "rps"), bare("whole-1k-32", "rps"))
    hits, idle = ratio(full("cache", "rps"), full("whole-1k-32", "rps")), full("start", "memory_kib")
    base = direct("paced-500", "first_p99_us")
    added = None if first is None or base is None else (first - base) / 1000
    nginx = {name: _value(found, scenario, "nginx", name) for scenario, name in (("whole-1k-32", "cpu_us"), ("paced-500", "cpu_us_event"))}
    mine, floor = full("open", "p99_us"), _value(found, "open", "nginx", "p99_us")
    over = None if mine is None or floor is None else mine - floor
    return [
        _at_most("CPU of a request of 1 KiB, us", 45, one),
        _at_most("the same, times nginx (45 were asked of a machine on which nginx takes 10.4)", 4.33, ratio(one, nginx["cpu_us"])),
        _at_most("CPU of a paced token, 500 streams, us", 11.5, full("paced-500", "cpu_us_event")),
        _at_most("the same, times nginx (11.5 where nginx takes 9.9)", 1.16, ratio(full("paced-500", "cpu_us_event"), nginx["cpu_us_event"])),
        _at_most("instructions of a request of 1 KiB, thousands", 170, counted.get("governed/whole_1k")),
        _at_most("instructions of a request of 32 KiB, thousands", 300, counted.get("governed/whole_32k")),
        _at_most("instructions of a token, thousands", 13, counted.get("governed/token")),
        _at_most("memory of a stream, 500 open, KiB", 37, full("paced-500", "kib_per_stream")),
        _at_most("idle memory, MiB", 15, idle and idle / 1024),
        _at_most("start to first answer, ms", 50, full("start", "ready_ms")),
        _at_least("everything on, of what it carries bare (1 KiB, 32 connections)", 0.85, less),
        _at_most("a body of 32 KiB, times one of 1 KiB", 1.15, more),
        _at_least("hits of the cache, times misses", 2, hits),
        _at_most("first token p99 above direct, 500 streams, ms", 1, added),
        _at_most("p99 above nginx at a rate far below what either carries, us", 100, over),
        _at_most("errors with the most streams open", 0, full("paced-10000", "errors")),
    ]


def _at_most(what, bar, value):
    return what, f"<= {bar:g}", value, None if value is None else value <= bar


def _at_least(what, bar, value):
    return what, f">= {bar:g}", value, None if value is None else value >= bar


def counted(text):
    """What was counted, in thousands, by what it is of; and at which commit."""
    lines = text.splitlines()
    numbers = [line.split() for line in lines if line and not line.startswith("#")]
    at = next((line.removeprefix("# At ") for line in lines if line.startswith("# At ")), "an unknown commit")
    return {name: int(instructions) / 1000 for name, instructions in numbers}, at
