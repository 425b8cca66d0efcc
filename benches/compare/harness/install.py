"""Brings a peer onto this machine, in the version that is pinned, or says why it cannot."""

import json
import os
import shutil
import subprocess
import sys
import tomllib

from harness.places import BUILD, CACHE, ROOT, VERSIONS

PINNED = tomllib.loads(VERSIONS.read_text())


class Missing(Exception):
    """A peer that cannot be had here, and why."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def _run(command, what, **more):
    say(f"   {what}")
    done = subprocess.run(["nice", "-n", "10", *map(str, command)], capture_output=True, text=True, check=False, **more)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Missing(f"{what} failed: {lines[-1][:200] if lines else 'it did not say why'}")


def _once(folder, fill):
    """Fills a folder of the cache, unless it has been filled before."""
    stamp = folder / "ready"
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            fill(folder)
        except Missing:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        stamp.touch()
    return folder


def _folder(kind, package, version):
    return CACHE / kind / f"{package.split('[')[0].replace('/', '+')}-{version}"


def _pip(package):
    version = PINNED["pip"][package]

    def fill(folder):
        _run([sys.executable, "-m", "venv", folder], f"making a venv for {package}")
        get = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:"]
        _run([folder / "bin" / "python", *get, f"{package}=={version}"], f"pip install {package}=={version}")

    return _once(_folder("venv", package, version), fill) / "bin", version


def _npm(package):
    version = PINNED["npm"][package]

    def fill(folder):
        overrides = {"overrides": PINNED.get("npm-overrides", {}).get(package, {})}
        (folder / "package.json").write_text(json.dumps(overrides))
        get = ["npm", "--prefix", folder, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        _run([*get, f"{package}@{version}"], f"npm install {package}@{version}")

    if not shutil.which("npm"):
        raise Missing("there is no npm")
    return _once(_folder("npm", package, version), fill) / "node_modules" / ".bin", version


def _cargo(package):
    version = PINNED["cargo"][package]

    def fill(folder):
        get = ["cargo", "install", "--locked", "--quiet", "--root", folder, "--target-dir", CACHE / "cargo-build"]
        _run([*get, f"{package}@{version}"], f"cargo install {package}@{version} (minutes)", env=_plain_environment())
        shutil.rmtree(CACHE / "cargo-build", ignore_errors=True)

    return _once(_folder("cargo", package, version), fill) / "bin", version


def _plain_environment():
    """Without what the repository's own build is told."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CARGO_TARGET", "RUSTFLAGS"))}


def _debian(package):
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    if not shutil.which(package, path=path):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise Missing(f"it is not installed; on Debian: apt-get install {package}")
        # Installed, not started.
        quiet = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        get = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
        _run(get, f"apt-get install {package}", env=quiet)
    found = shutil.which(package, path=path)
    if not found:
        raise Missing(f"{package} is not there although it was installed")
    return os.path.dirname(found), PINNED["debian"][package]


KINDS = {"pip": _pip, "npm": _npm, "cargo": _cargo, "debian": _debian}


def peer(install):
    """The folder of a peer's program, and its pinned version. `install` is one pair of registry and package."""
    ((kind, package),) = install.items()
    return KINDS[kind](package)


def ours(bin_dir, needed, built):
    """The folder of our own release binaries: built, unless somebody else has built those that are needed."""
    if bin_dir:
        absent = [name for name in needed if not (bin_dir / name).exists()]
        if absent:
            raise SystemExit(f"compare: {bin_dir} has no {', '.join(absent)}")
        return bin_dir.resolve()
    say("== building what is measured and what measures: the gateway as it ships, the rest as a release")
    subprocess.run([ROOT / "deploy" / "build"], check=True)
    others = [name for name in built if name != "tidegate"]
    wanted = [part for name in others for part in ("-p", name)]
    subprocess.run(["cargo", "build", "--release", "--locked", "--bins", *wanted], cwd=ROOT, check=True)
    folder = CACHE / "own"
    folder.mkdir(parents=True, exist_ok=True)
    for program in (ROOT / "target" / "trained" / "tidegate", *(BUILD / "release" / name for name in others)):
        shutil.copy2(program, folder)
    return folder
