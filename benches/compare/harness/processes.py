"""Processes as the kernel knows them: who belongs to a server, and what it has spent."""

import os
import pathlib
import time

TICK = os.sysconf("SC_CLK_TCK")


def _parents():
    """Every process and its parent."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass  # It has ended meanwhile.
    return found


def tree(root):
    """A process and all that came of it."""
    parents = _parents()
    members, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return sorted(pid for pid in members if pid in parents)


def cpu_seconds(pids):
    """Time on a processor, of all threads."""
    total = 0.0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / TICK
        except OSError:
            pass
    return total


def memory_kib(pids):
    """Resident memory. What several processes share counts once."""
    total = 0
    for pid in pids:
        try:
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def settle(pids, patience=4.0):
    """Waits until a server has nothing left to do, such as closing ten thousand connections; false if it does not come to rest."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = cpu_seconds(pids)
        time.sleep(0.2)
        if cpu_seconds(pids) - before < 0.03:
            return True
    return False
