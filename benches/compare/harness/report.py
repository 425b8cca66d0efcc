def line(record):
    """One sample, while it runs."""
    wanted = [("rps", "{:,.0f}/s"), ("events_per_second", "{:,.0f} events/s"), ("cpu_us", "{:.1f} us"),
              ("cpu_us_event", "{:.2f} us/event"), ("p50_us", "p50 {:,.0f}"), ("p99_us", "p99 {:,.0f}"),
              ("kib_per_stream", "{:.1f} KiB/stream"), ("memory_kib", "{:,.0f} KiB"), ("ready_ms", "ready in {:.0f} ms"),
              ("refused", "{:.0%} refused"), ("errors", "{} errors"), ("asking_busy", "asking core {:.0%}"),
              ("mock_us", "mock {:.1f} us"), ("slow_kib", "{:.0f} KiB/slow"), ("slow_served", "{} slow served")]  # fmt: skip
    return ", ".join(form.format(record[name]) for name, form in wanted if record.get(name) is not None)


def write(result, docs):
    pass
