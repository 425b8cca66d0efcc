"""The plots of the page: which numbers, of whom."""

from harness import svg

PLOTS = {
    "bench-request": ("CPU of a request, by the size of its body", "microseconds, 32 connections",
                      [("1 KiB", "whole-1k-32", "cpu_us", 1), ("32 KiB", "whole-32k-32", "cpu_us", 1), ("1 MiB", "whole-1m-32", "cpu_us", 1)]),
    "bench-token": ("CPU of a streamed token", "microseconds",
                    [("as fast as they go", "stream-64", "cpu_us_event", 1), ("20 ms apart, 500 streams", "paced-500", "cpu_us_event", 1)]),
    "bench-memory": ("Memory of an open stream", "KiB",
                     [("500", "paced-500", "kib_per_stream", 1), ("2,000", "paced-2000", "kib_per_stream", 1),
                      ("the most", "paced-10000", "kib_per_stream", 1)]),
    "bench-start": ("Start-up and idle", "milliseconds; MiB",
                    [("first answer, ms", "start", "ready_ms", 1), ("idle memory, MiB", "start", "memory_kib", 1 / 1024)]),
}  # fmt: skip


def draw(result, found):
    """Each plot that there are numbers for, by name."""
    drawn = {}
    for name, (title, unit, series) in PLOTS.items():
        entries = [(one["title"], one["kind"], [_value(found, one["name"], *which) for which in series]) for one in result["targets"]]
        entries = [entry for entry in entries if any(entry[2])]
        picture = svg.rows(title, unit, sorted(entries, key=_least), [called for called, *_ in series])
        if picture:
            drawn[name] = picture
    return drawn


def _value(found, target, _called, scenario, name, factor):
    value = found.get(scenario, {}).get(target, {}).get(name)
    return value * factor if value and value > 0 else None


def _least(entry):
    return next(value for value in entry[2] if value)
