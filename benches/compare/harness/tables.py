"""Tables in Markdown: what each column says, and how its numbers are written."""

from harness.stats import ratio

BUSY = 0.9
"""From this share on, the core that asks is what limits a rate."""


def number(value, digits=None):
    """As many digits as mean something."""
    if value is None:
        return "-"
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def time(us):
    """Microseconds, or milliseconds where those are too many to read."""
    if us is None:
        return "-"
    return f"{number(us / 1000)} ms" if us >= 1000 else f"{us:.0f} us"


def mib(kib):
    return "-" if kib is None else number(kib / 1024, 1 if kib < 102400 else 0)


def times(value, base):
    found = ratio(value, base)
    return "-" if found is None else f"{found:.2f}" if found < 10 else f"{found:,.0f}"


def percent(value, base):
    found = ratio(value, base)
    return "-" if found is None else f"{found:.0%}"


def spread(found, name):
    value = found["spread"].get(name)
    return "-" if value is None or found["rounds"] < 2 else f"{value:.0%}"


def rate(value):
    """So many a second. Who has ended none of them has no rate."""
    return "none ended" if value == 0 else number(value, 0)


def markdown(head, rows):
    """A table; the first column is text, all others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def scenario(one, found, targets):
    """A scenario's table, with the targets in their order."""
    head, cells = COLUMNS[one["kind"]]
    # Some ask for what is not there without features.
    base = {"direct": found.get("direct", {}), "nginx": found.get("nginx") or found.get("nginx-full", {})}
    rows = []
    for target in targets:
        values = found.get(target["name"])
        if values:
            mark = " †" if values.get("asking_busy", 0) >= BUSY and one["kind"] != "start" else ""
            rows.append([target["title"] + mark, *cells(values, base)])
    return markdown(head, rows) if rows else ""


def _whole(values, base):
    user = values.get("user_share")
    share = "-" if user is None else f"{user:.0%}"
    return [
        rate(values.get("rps")), percent(values.get("rps"), base["direct"].get("rps")),
        number(values.get("cpu_us")), share, times(values.get("cpu_us"), base["nginx"].get("cpu_us")),
        spread(values, "cpu_us"), time(values.get("p50_us")), time(values.get("p99_us")),
        times(values.get("p50_us"), base["direct"].get("p50_us")), mib(values.get("memory_kib")), number(values["errors"], 0),
    ]  # fmt: skip


def _open(values, base):
    above = None if "p99_us" not in values or "p99_us" not in base["nginx"] else values["p99_us"] - base["nginx"]["p99_us"]
    return [
        rate(values.get("rps")), number(values.get("cpu_us")), times(values.get("cpu_us"), base["nginx"].get("cpu_us")),
        time(values.get("p50_us")), time(values.get("p99_us")), spread(values, "p99_us"), time(above),
        number(values["errors"], 0),
    ]  # fmt: skip


def _stream(values, base):
    return [
        rate(values.get("rps")), number(values.get("events_per_second"), 0),
        percent(values.get("events_per_second"), base["direct"].get("events_per_second")),
        number(values.get("cpu_us")), number(values.get("cpu_us_event")),
        times(values.get("cpu_us_event"), base["nginx"].get("cpu_us_event")), spread(values, "cpu_us_event"),
        time(values.get("first_p50_us")), time(values.get("first_p99_us")), time(values.get("p99_us")),
        mib(values.get("memory_kib")), number(values["errors"], 0),
    ]  # fmt: skip


def _paced(values, base):
    return [
        number(values.get("events_per_second"), 0), percent(values.get("events_per_second"), base["direct"].get("events_per_second")),
        number(values.get("cpu_us_event")), times(values.get("cpu_us_event"), base["nginx"].get("cpu_us_event")),
        spread(values, "cpu_us_event"), number(values.get("cpus")), time(values.get("first_p50_us")),
        time(values.get("first_p99_us")), time(values.get("gap_p99_us")), number(values.get("kib_per_stream"), 1),
        mib(values.get("memory_kib")), number(values["errors"], 0),
    ]  # fmt: skip


def _start(values, base):
    return [
        number(values.get("ready_ms"), 0), times(values.get("ready_ms"), base["nginx"].get("ready_ms")),
        spread(values, "ready_ms"), mib(values.get("memory_kib")),
        times(values.get("memory_kib"), base["nginx"].get("memory_kib")),
    ]  # fmt: skip


def _slow(values, base):
    return [
        *_stream(values, base)[:3], number(values.get("cpu_us_event")),
        times(values.get("cpu_us_event"), base["nginx"].get("cpu_us_event")), time(values.get("p99_us")),
        mib(values.get("memory_kib")), mib(values.get("grown_kib")), number(values.get("slow_served"), 0),
        number(values["errors"], 0),
    ]  # fmt: skip


def _limit(values, base):
    refused = values.get("refused")
    return [
        rate(values.get("rps")), "-" if refused is None else f"{refused:.0%}", number(values.get("cpu_us")),
        times(values.get("cpu_us"), base["nginx"].get("cpu_us")), spread(values, "cpu_us"), time(values.get("p50_us")),
        time(values.get("p99_us")), number(values["errors"], 0),
    ]  # fmt: skip


_CPU = ["CPU us/request", "in user space", "x nginx", "spread"]
COLUMNS = {
    "start": (["", "first answer ms", "x nginx", "spread", "idle MiB", "x nginx"], _start),
    "whole": (
        ["", "requests/s", "of direct", *_CPU, "p50", "p99", "p50 x direct", "MiB", "errors"],
        _whole,
    ),
    "open": (["", "requests/s", "CPU us/request", "x nginx", "p50", "p99", "spread", "p99 above nginx", "errors"], _open),
    "cache": (["", "requests/s", "of direct", *_CPU, "p50", "p99", "p50 x direct", "MiB", "errors"], _whole),
    "stream": (
        ["", "streams/s", "events/s", "of direct", "CPU us/stream", "CPU us/event", "x nginx", "spread", "first token p50",
         "first token p99", "whole p99", "MiB", "errors"],
        _stream,
    ),
    "paced": (
        ["", "events/s", "of direct", "CPU us/event", "x nginx", "spread", "cores", "first token p50", "first token p99",
         "gap p99", "KiB/stream", "MiB", "errors"],
        _paced,
    ),
    "slow": (["", "streams/s", "events/s", "of direct", "CPU us/event", "x nginx", "whole p99", "MiB", "above idle",
              "slow readers served", "errors"], _slow),
    "limit": (["", "let pass/s", "refused", "CPU us/decision", "x nginx", "spread", "p50", "p99", "errors"], _limit),
}  # fmt: skip
