"""What is asked. Each scenario is bounded in time, whatever becomes of what is measured."""

import dataclasses

from harness import machine

SIZES = {"1k": 1 << 10, "32k": 32 << 10, "1m": 1 << 20}
CONNECTIONS = (1, 32, 256)
LIMIT_SECONDS = 3.0
"""How long a limiter is asked: those that count by the minute get a limit that half of that time uses up."""

SPARE_FILES = 600
"""What a process has open besides a client and a backend for each stream: idle connections, for one."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One table."""

    name: str
    title: str
    kind: str
    """`start`, `whole`, `open` (at a rate), `stream` (as fast as it goes), `paced`, `slow`, `limit` or `cache`."""
    arguments: tuple = ()
    """For the load."""
    streams: int = 0
    duration: float = 2.0
    warmup: float = 0.5
    ramp: float = 0.0
    mode: str = "main"
    """What a target has to be started as."""
    process: str = ""
    """Those that name one have it for themselves: what ten thousand streams leave behind is no memory of a request."""
    asked: float = 0.0
    """Events a second that the backend would send if nothing held it up."""
    note: str = ""

    @property
    def seconds(self):
        return self.ramp + self.warmup + self.duration


def every(quick):
    """All scenarios, in the order of the tables."""
    found = [Scenario("start", "Start-up and idle", "start")]
    found += _paced(quick)
    found.append(
        Scenario("stream-64", "Streams of 64 tokens, as fast as they go, 32 at a time", "stream",
                 ("--model", "mock-stream-64-0", "--streams", "32", "--distinct"), streams=32)
    )  # fmt: skip
    for size, count in SIZES.items():
        for more, connections in enumerate(CONNECTIONS):
            # `--distinct` counts from zero each time: another size is another question, which no cache has seen.
            found.append(
                Scenario(f"whole-{size}-{connections}", f"Requests of {_size(count)}, {_connections(connections)}", "whole",
                         ("--body-size", str(count + more), "--connections", str(connections), "--distinct"))
            )  # fmt: skip
    found.append(
        Scenario("open", "Requests of 1 KiB at a given rate, far below what most carry", "open",
                 ("--body-size", str(SIZES["1k"] + len(CONNECTIONS)), "--connections", "64", "--distinct"), process="open")
    )  # fmt: skip
    found.append(
        Scenario("slow", "32 streams of 64 tokens beside 16 clients that read 20 KiB a second", "slow",
                 ("--model", "mock-stream-64-0", "--streams", "32", "--distinct"), streams=32, duration=3.0, process="slow")
    )  # fmt: skip
    found.append(
        Scenario("limit", "A limit that refuses every second request", "limit",
                 ("--connections", "128", "--distinct"), duration=LIMIT_SECONDS, warmup=0.0, mode="limit")
    )  # fmt: skip
    found.append(
        Scenario("cache", "The same question again: answers of 1 KiB from the cache, 32 connections", "cache",
                 ("--model", "mock-whole-1024", "--connections", "32"), mode="cache")
    )  # fmt: skip
    if quick:
        found = [_short(one) for one in found]
    return found


def _short(one):
    """The same in little time. A limiter gets what it needs."""
    if one.kind in ("limit", "paced"):
        return one
    return dataclasses.replace(one, duration=min(one.duration, 1.0), warmup=min(one.warmup, 0.3))


def _paced(quick):
    most = min(10_000, (machine.files() - SPARE_FILES) // 2)
    # 200 tokens at 20 ms are 4 s, so that streams begin and end all the time. Ten thousand at that pace would be 500,000
    # events a second, more than mock and load have a core for: their pace is slower, and the table's title says so.
    plans = [(500, 200, 20, 4.0, 4.0), (2000, 200, 20, 4.0, 4.0), (most, 20, 500, 8.0, 6.0)]
    found = []
    for streams, tokens, pace, ramp, duration in plans:
        note = ""
        if streams == most and most < 10_000:
            note = (
                f"Not 10,000: a process may have {machine.files():,} files open here, and a stream takes two. `make streams` has 10,000 "
                "through Tidegate, with HTTP/2 on one side, which not all of these speak to a backend. Slower than the others: at 20 ms "
                "these streams would be half a million events a second, more than mock and load have a core for."
            )
        found.append(
            Scenario(f"paced-{'10000' if streams == most else streams}",
                     f"{streams:,} streams open at a time, {tokens} tokens, {pace} ms apart", "paced",
                     ("--model", f"mock-stream-{tokens}-{pace}", "--streams", str(streams), "--distinct"), streams=streams,
                     ramp=ramp / 3 if quick else ramp, warmup=0.0, duration=1.0 if quick else duration, asked=streams * 1000 / pace, note=note,
                     process="" if streams == 500 else str(streams))
        )  # fmt: skip
    return found


def _size(count):
    return "1 MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def _connections(count):
    return "1 connection" if count == 1 else f"{count} connections"


def choose(scenarios, wanted):
    """Those that were asked for, by name or by the beginning of it."""
    if not wanted:
        return scenarios
    unknown = [name for name in wanted if not any(one.name.startswith(name) for one in scenarios)]
    if unknown:
        raise SystemExit(f"compare: no scenario {', '.join(unknown)}; there are {', '.join(one.name for one in scenarios)}")
    return [one for one in scenarios if any(one.name.startswith(name) for name in wanted)]
