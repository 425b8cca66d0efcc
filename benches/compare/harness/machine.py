"""What was measured on: told with the numbers, since they hold for nothing else."""

import datetime
import os
import pathlib
import platform
import resource
import subprocess

from harness.places import ROOT


def cores():
    """The cores of the gateway, of the mock and of the load; the last two share one if there are only two."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("compare: this takes two cores, one for what is measured and one for what asks")
    return allowed[0], allowed[1], allowed[2 if len(allowed) > 2 else 1]


def files():
    """Files that one process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def load():
    """Processes that wanted to run, on average of the last minute."""
    return os.getloadavg()[0]


def describe():
    """All of it, for the raw results."""
    info = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())
    memory = int(pathlib.Path("/proc/meminfo").read_text().split(None, 2)[1])
    return {
        "when": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**20),
        "files": files(),
        "commit": _commit(),
    }


def _commit():
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"
