"""From samples to what a table says: the median of the rounds, and how far they lay apart."""

import statistics

NUMBERS = (
    "ready_ms", "rps", "events_per_second", "cpu_us", "cpu_us_event", "user_share", "cpus", "p50_us", "p99_us",
    "first_p50_us", "first_p99_us", "gap_p99_us", "memory_kib", "kib_per_stream", "grown_kib", "slow_served", "refused",
    "asking_busy", "mock_us", "machine_load",
)  # fmt: skip


def summary(samples):
    """By scenario and target: each number's median, and its spread; errors are added up."""
    groups = {}
    for sample in samples:
        groups.setdefault(sample["scenario"], {}).setdefault(sample["target"], []).append(sample)
    return {
        scenario: {target: _joined(found) for target, found in by_target.items()} for scenario, by_target in groups.items()
    }


def _joined(samples):
    joined = {"rounds": len(samples), "errors": sum(sample.get("errors", 0) for sample in samples), "spread": {}}
    for name in NUMBERS:
        values = [sample[name] for sample in samples if sample.get(name) is not None]
        if values:
            joined[name] = statistics.median(values)
            joined["spread"][name] = spread(values)
    return joined


def spread(values):
    """How far the outermost lie apart, as a share of the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def ratio(value, base):
    """How many times the base; none where there is nothing to compare."""
    return value / base if value is not None and base else None
