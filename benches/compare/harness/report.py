"""What is written: a line a sample while it runs, the table of the run on the terminal, and docs/benchmarks.md."""

import json

from harness import judge, plots, stats, tables
from harness.places import COUNTED, DOCS, RESULTS

INTRODUCTION = """\
# Benchmarks

Tidegate, what people use in its place, and general proxies, measured in one run: the same mock, the same load, the same core,
in rounds that visit every target and begin with another one each time. This page and its plots are written by
`make compare` (`benches/compare/run --docs`); no number in it was written by hand.

{each} What is
measured had one core to itself; the mock and the load shared {asking}. **CPU** is user and system time of the measured
process and its children, divided by what it answered: the number that says how many machines it takes, and the one that
depends least on what asks. *x nginx* is its ratio to nginx passing through, which is the floor of what a proxy costs on
this kernel. **MiB** is resident memory, with what processes share counted once. In the line *direct* it is the mock
itself that was measured. Latencies are those at full load in a closed loop, for as many connections as the table says: they
tell how long the queue is as much as how fast the server is.
"""

COMPARED = """\
## What is compared, and what is not

Every target has those of its features on that a gateway for models has, as far as they can be had without a database or
another server beside it; its configuration is in [benches/compare/peers](../benches/compare/peers). All run with one
worker or on one core. Tidegate is built as `make release` builds it: compiler and BOLT have watched it answer this mock, with
requests and streams of other sizes than these ([benches/train](../benches/train)); what that brings is in
[0016](decisions/0016-how-fast-it-is.md). The bare Pingora is as `cargo build --release` builds it, the others are as their registries
have them. General proxies read no body: they know no model, count no tokens, and route by nothing that stands in a request, so that
their lines are floors and not alternatives. In the limiter's table *x nginx* is to nginx with its features on. All requests of the
load but those of the cache differ from one another, so that Tidegate looks into its cache, finds nothing, and keeps the answer;
nginx, LiteLLM and crabllm have their caches on in that table only.
The events of the mock's streams differ from one another in their text alone, as those of vLLM, SGLang, TGI and llama.cpp do without log
probabilities; Tidegate knows such events by that, and takes half as many instructions again for others.
"""


def line(record):
    """One sample, while it runs."""
    wanted = [("rps", "{:,.0f}/s"), ("events_per_second", "{:,.0f} events/s"), ("cpu_us", "{:.1f} us"),
              ("cpu_us_event", "{:.2f} us/event"), ("p50_us", "p50 {:,.0f}"), ("p99_us", "p99 {:,.0f}"),
              ("kib_per_stream", "{:.1f} KiB/stream"), ("memory_kib", "{:,.0f} KiB"), ("ready_ms", "ready in {:.0f} ms"),
              ("refused", "{:.0%} refused"), ("errors", "{} errors"), ("asking_busy", "asking core {:.0%}"),
              ("mock_us", "mock {:.1f} us"), ("grown_kib", "grown by {:,.0f} KiB"), ("slow_served", "{} slow served")]  # fmt: skip
    return ", ".join(form.format(record[name]) for name, form in wanted if record.get(name) is not None)


def write(result, docs):
    """The page on the terminal; with `docs` into the repository, with plots and medians."""
    found = stats.summary(result["samples"])
    drawn = plots.draw(result, found)
    page = document(result, found, drawn)
    if not docs:
        print(page)
        return
    (DOCS / "benchmarks.md").write_text(page)
    for name, picture in drawn.items():
        (DOCS / f"{name}.svg").write_text(picture)
    RESULTS.write_text(_medians(result, found))


def _medians(result, found):
    """The medians as JSON, a line for each target, so that a diff can be read."""
    lines = [
        json.dumps({"scenario": scenario, "target": target, **_rounded(values)})
        for scenario, values_of in found.items()
        for target, values in values_of.items()
    ]
    head = {name: result[name] for name in ("machine", "rounds", "skipped")}
    head["versions"] = {one["name"]: one["version"] for one in result["targets"]}
    return json.dumps({**head, "medians": []})[:-3] + "[\n" + ",\n".join(lines) + "\n]}\n"


def _rounded(values):
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items() if name != "spread"}


def document(result, found, drawn):
    """The whole page."""
    asking = "another one" if result["machine"]["cores"] < 3 else "the others"
    parts = [INTRODUCTION.format(each=_each(result["rounds"]), asking=asking), _machine(result)]
    if result["quick"]:
        parts.append("**This was a quick run: one short round, to see that it works. Its numbers are worth nothing.**\n")
    parts.append("## At a glance\n\n" + _summary(result, found))
    parts += [f"![{name}]({name}.svg)\n" for name in drawn]
    parts += [_bars(found), _ahead(result, found), COMPARED, _targets(result), _skipped(result)]
    parts += [_scenario(one, result, found) for one in result["scenarios"]]
    return "\n".join(part for part in parts if part)


def _each(rounds):
    if rounds < 2:
        return "Each number is of **one round**, so that nothing says how far another would lie from it."
    return f"Each number is the median of {rounds} rounds; *spread* is how far the outermost rounds lie apart, as a share of it."


def _machine(result):
    machine = result["machine"]
    loads = [sample["machine_load"] for sample in result["samples"] if "machine_load" in sample]
    load = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"
    return (
        f"Measured {machine['when']} at {machine['commit']}: {machine['cpu']}, {machine['cores']} cores (virtual), "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}; load of the whole machine {load} (the run itself is up to 2). "
        f"† marks a line in which the core that asks was at least {tables.BUSY:.0%} busy: its rate is that of what asks, its CPU holds.\n"
    )


SUMMARY = (
    ("CPU us/request, 1 KiB", "whole-1k-32", "cpu_us"),
    ("32 KiB", "whole-32k-32", "cpu_us"),
    ("1 MiB", "whole-1m-32", "cpu_us"),
    ("CPU us/event, flat out", "stream-64", "cpu_us_event"),
    ("500 streams, 20 ms", "paced-500", "cpu_us_event"),
    ("KiB/stream", "paced-500", "kib_per_stream"),
    ("idle MiB", "start", "memory_kib"),
    ("start ms", "start", "ready_ms"),
)


def _summary(result, found):
    rows = []
    for target in result["targets"]:
        values = [found.get(scenario, {}).get(target["name"], {}).get(name) for _, scenario, name in SUMMARY]
        shown = [tables.mib(v) if name == "memory_kib" else tables.number(v) for v, (_, _, name) in zip(values, SUMMARY, strict=True)]
        rows.append([target["title"], *shown])
    return tables.markdown(["32 connections", *(head for head, _, _ in SUMMARY)], rows) + "\n"


def _bars(found):
    rows = []
    counted, at = judge.counted(COUNTED.read_text() if COUNTED.exists() else "")
    for what, bar, value, holds in judge.bars(found, counted):
        rows.append([what, bar, tables.number(value), {True: "holds", False: "**missed**", None: "not measured"}[holds]])
    note = f"With everything on. Instructions were counted before, at {at} (benches/results/shipped.txt).\n\n" if counted else "With everything on.\n\n"
    return f"## The bars\n\n{note}" + tables.markdown(["", "bar", "measured", ""], rows) + "\n"


def _ahead(result, found):
    lines = judge.ahead(result, found)
    measured = any(judge.OURS in values for values in found.values())
    if not measured:
        return ""
    text = "## Where somebody is ahead\n\nOf Tidegate with everything on, by more than 5 %, without more errors.\n\n"
    if not lines:
        return text + "Nobody, in no line of any table.\n"
    rows = []
    for scenario, called, name, own, who in lines:
        gateways = [f"{one['title']} ({_shown(name, value)})" for one, value in who if one["kind"] == "gateway"]
        proxies = [f"{one['title']} ({_shown(name, value)})" for one, value in who if one["kind"] == "proxy"]
        rows.append([scenario["title"], called, _shown(name, own), ", ".join(gateways) or "-", ", ".join(proxies) or "-"])
    return text + tables.markdown(["line", "measure", "Tidegate", "gateways for models", "general proxies"], rows) + "\n"


def _shown(name, value):
    if name in ("memory_kib", "grown_kib"):
        return f"{tables.mib(value)} MiB"
    if name.startswith(("p50", "p99", "first", "gap")):
        return tables.time(value)
    return tables.number(value) + {"cpu_us": " us", "cpu_us_event": " us", "ready_ms": " ms", "kib_per_stream": " KiB"}.get(name, "")


def _targets(result):
    rows = [[one["title"], one["version"], one["on"] or "-", one["lacks"] or "-"] for one in result["targets"]]
    return tables.markdown(["", "version", "on", "not comparable"], rows).replace("--:", "---") + "\n"


def _skipped(result):
    if not result["skipped"]:
        return ""
    entries = [f"- {one['target']}{', ' + one['scenario'] if one['scenario'] else ''}: {one['reason']}" for one in result["skipped"]]
    return "Skipped:\n\n" + "\n".join(entries) + "\n"


def _rates(result, measured, divisor):
    """How much is asked, of whom less, and how latency counts."""
    shown = [target for target in result["targets"] if target["name"] in measured]
    most = max(target["rate"] for target in shown)
    fewer = [f", {target['rate'] // divisor} of {target['title']}" for target in shown if target["rate"] != most]
    asked = f"{most // divisor:,} requests a second{''.join(fewer)}"
    return f"Open loop, {asked}: latency counts from when a request was due, whether or not a connection was free."


def _scenario(one, result, found):
    table = tables.scenario(one, found.get(one["name"], {}), result["targets"])
    if not table:
        return ""
    notes = [one["note"]] if one["note"] else []
    if one["kind"] == "paced":
        notes.append(f"The mock would send {one['asked']:,.0f} events a second if nothing held it up.")
    if one["kind"] in ("limit", "open"):
        notes.append(_rates(result, found[one["name"]], 1 if one["kind"] == "limit" else 2))
    return f"## {one['title']}\n\n" + (" ".join(notes) + "\n\n" if notes else "") + table + "\n"
