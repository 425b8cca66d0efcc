"""What is measured: read from `peers/NAME/peer.toml`, one file for each product, with one or more targets in it."""

import dataclasses
import subprocess
import tomllib

from harness import install
from harness.places import PEERS

KINDS = ("floor", "proxy", "gateway", "ours")
"""The mock itself; general proxies; gateways for models; Tidegate."""


@dataclasses.dataclass(frozen=True)
class Target:
    """One line of the tables."""

    name: str
    title: str
    kind: str
    peer: str
    """The folder that its configuration is in."""
    install: dict
    command: list
    modes: dict
    """What it can be started as (`main`, `limit`, `cache`), and what is added to the command then."""
    on: str
    """Which of its features are on, in words."""
    lacks: str
    key: bool
    rate: int
    """Requests a second that its limiter is asked, twice what it lets pass."""
    patience: float
    env: dict
    headers: list
    path: str
    version_command: list


def read():
    """All targets, in the order of the tables."""
    found = []
    for file in sorted(PEERS.glob("*/peer.toml")):
        peer = tomllib.loads(file.read_text())
        for entry in peer["target"]:
            found.append((peer.get("order", 50), _target(file.parent.name, peer, entry)))
    found.sort(key=lambda pair: pair[0])
    return [target for _, target in found]


def _target(folder, peer, entry):
    kind = entry["kind"]
    if kind not in KINDS:
        raise SystemExit(f"compare: {folder}: no kind {kind!r}")
    return Target(
        name=entry["name"],
        title=entry["title"],
        kind=kind,
        peer=folder,
        install=peer.get("install", {}),
        command=entry.get("command", peer.get("command", [])),
        modes=entry.get("modes", {"main": []}),
        on=entry.get("on", ""),
        lacks=entry.get("lacks", ""),
        key=entry.get("key", False),
        rate=entry.get("rate", 4000),
        patience=peer.get("patience", 20.0),
        env=peer.get("env", {}),
        headers=entry.get("headers", []),
        path=entry.get("path", "/v1/chat/completions"),
        version_command=peer.get("version", []),
    )


def choose(targets, only):
    """Those that were asked for, by name."""
    if not only:
        return targets
    known = {target.name for target in targets}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SystemExit(f"compare: no target {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [target for target in targets if target.name in only]


def prepare(target, own):
    """The folder of the program, and which version it is.

    # Raises
    `Missing`, with the reason.
    """
    if target.kind == "floor":
        return own, "ours"
    if not target.install:
        return own, _said(target, own) or "ours"
    folder, pinned = install.peer(target.install)
    said = _said(target, folder) or pinned
    if pinned not in said:
        install.say(f"   {target.peer}: {pinned} is pinned, this is {said}")
        return folder, f"{said} (pinned: {pinned})"
    return folder, pinned


def _said(target, folder):
    if not target.version_command:
        return ""
    command = [part.replace("@BIN@", str(folder)) for part in target.version_command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        raise install.Missing(f"its program does not run: {error}") from error
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""
