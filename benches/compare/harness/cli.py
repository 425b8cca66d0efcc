"""The command: what is asked for, in what order it is done, and where it goes."""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys

from harness import install, machine, measure, processes, report, scenarios, server, targets
from harness.places import CACHE

NEEDED = ["tidegate", "tidegate-bench-mock", "tidegate-bench-load"]
BUILT = [*NEEDED, "tidegate-bench-passthrough"]


def _arguments(given):
    parser = argparse.ArgumentParser(
        prog="benches/compare/run", description="Measures Tidegate, and what people use in its place, in one run."
    )
    parser.add_argument("--only", default="", help="targets, by name, with commas between them")
    parser.add_argument("--scenario", default="", help="scenarios, by name or its beginning, with commas between them")
    parser.add_argument("--rounds", type=int, default=3, help="how often each target is visited")
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it works, not for numbers")
    parser.add_argument("--bin-dir", type=pathlib.Path, help="release binaries that are there already, in place of a build")
    parser.add_argument("--list", action="store_true", help="say which targets and scenarios there are, and end")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md, its plots, and the medians")
    parser.add_argument("--from", dest="source", type=pathlib.Path, help="measure nothing, take this raw result")
    return parser.parse_args(given)


def main(given=None):
    """Runs it; the exit code says whether anything was measured."""
    arguments = _arguments(given)
    if arguments.source:
        report.write(json.loads(arguments.source.read_text()), arguments.docs)
        return 0
    machine.files()
    chosen = targets.choose(targets.read(), [name for name in arguments.only.split(",") if name])
    asked = scenarios.choose(scenarios.every(arguments.quick), [name for name in arguments.scenario.split(",") if name])
    if arguments.list:
        print("targets:", *(f"  {target.name:<18}{target.title}" for target in chosen), sep="\n")
        print("scenarios:", *(f"  {scenario.name:<18}{scenario.title}" for scenario in asked), sep="\n")
        return 0
    run = Run(arguments, chosen, asked)
    kept = CACHE / "results" / f"{run.machine['when'].replace(' ', '-').replace(':', '')}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    # After each visit: an hour's numbers are not lost with whoever ends it early.
    for result in run.run():
        kept.write_text(json.dumps(result, indent=1) + "\n")
    if not run.samples:
        install.say("== nothing was measured")
        return 1
    report.write(result, arguments.docs)
    install.say(f"== everything raw: {kept}")
    return 0


class Run:
    """All rounds."""

    def __init__(self, arguments, chosen, asked):
        self.rounds = 1 if arguments.quick else arguments.rounds
        self.asked, self.quick = asked, arguments.quick
        self.samples, self.skipped = [], []
        self.gateway_core, self.mock_core, self.load_core = machine.cores()
        self.own = install.ours(arguments.bin_dir, NEEDED, BUILT)
        self.machine = machine.describe()
        self.folders, self.versions = {}, {}
        self.targets = [target for target in chosen if self._prepare(target)]

    def _prepare(self, target):
        try:
            folder, version = targets.prepare(target, self.own)
        except install.Missing as reason:
            self._skip(target, None, str(reason))
            return False
        self.folders[target.name], self.versions[target.name] = folder, version
        return True

    def _skip(self, target, scenario, reason):
        entry = {"target": target.name, "scenario": scenario, "reason": reason}
        if entry not in self.skipped:
            self.skipped.append(entry)
            install.say(f"   skipped: {target.title}{f', {scenario}' if scenario else ''}: {reason}")

    def run(self):
        """Visits every target once a round, and begins with another one each time; gives all there is after each visit."""
        with server.mock(self.own, self.mock_core) as backend:
            for number in range(self.rounds):
                turn = number * max(1, len(self.targets) // self.rounds)
                for target in self.targets[turn:] + self.targets[:turn]:
                    install.say(f"== round {number + 1} of {self.rounds}: {target.title}")
                    self._visit(number, target, backend)
                    yield self._result(number + 1)

    def _result(self, rounds):
        described = [
            {"name": one.name, "title": one.title, "kind": one.kind, "on": one.on, "lacks": one.lacks,
             "version": self.versions[one.name], "rate": one.rate}
            for one in self.targets
        ]  # fmt: skip
        asked = [
            {"name": one.name, "title": one.title, "kind": one.kind, "streams": one.streams, "asked": one.asked,
             "duration": one.duration, "note": one.note}
            for one in self.asked
        ]  # fmt: skip
        return {
            "machine": self.machine, "rounds": rounds, "quick": self.quick, "targets": described,
            "scenarios": asked, "samples": self.samples, "skipped": self.skipped,
        }  # fmt: skip

    def _visit(self, number, target, backend):
        """Measures one target in all its modes. It is started once beforehand: the first start of all reads from the disk."""
        if target.kind != "floor" and any(one.kind == "start" for one in self.asked):
            with contextlib.suppress(install.Missing), server.serving(
                target, "main", self.folders[target.name], backend, self.gateway_core, self._secrets()
            ):
                pass
        for mode, process in dict.fromkeys((one.mode, one.process) for one in self.asked):
            asked = [one for one in self.asked if (one.mode, one.process) == (mode, process)]
            if mode not in target.modes:
                continue
            try:
                while asked:
                    asked = self._with_one_process(number, target, mode, asked, backend)
            except install.Missing as reason:
                self._skip(target, None if mode == "main" else mode, str(reason))

    def _with_one_process(self, number, target, mode, asked, backend):
        """Measures until all is done, or a server does not come to rest any more; gives what is left to be asked."""
        folder, secrets = self.folders[target.name], self._secrets()
        with server.serving(target, mode, folder, backend, self.gateway_core, secrets) as running:
            for done, scenario in enumerate(asked, 1):
                self._measure(number, target, scenario, running, backend[1])
                if target.kind != "floor" and done < len(asked) and not processes.settle(running.pids, patience=8):
                    install.say("   it is still busy with what it was asked: started anew")
                    return asked[done:]
        return []

    def _measure(self, number, target, scenario, running, mock_pid):
        if scenario.kind == "start" and target.kind == "floor":
            return
        try:
            record = measure.one(scenario, target, running, self.own, mock_pid, self.load_core)
        except RuntimeError as reason:
            self._skip(target, scenario.name, str(reason))
            return
        self.samples.append({"round": number, "target": target.name, "scenario": scenario.name, **record})
        install.say(f"   {scenario.name:<14}{report.line(record)}")

    def _secrets(self):
        """A key for this run, and what Tidegate's file has of it."""
        if not hasattr(self, "_made"):
            keys = [self.own / "tidegate", "keys"]
            said = {"text": True, "stderr": subprocess.DEVNULL}
            key = subprocess.check_output([*keys, "new", "--id", "bench"], **said).strip()
            self._made = {"key": key, "hash": subprocess.check_output([*keys, "hash"], input=key, **said).strip()}
        return self._made


if __name__ == "__main__":
    sys.exit(main())
