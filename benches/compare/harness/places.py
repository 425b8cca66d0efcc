"""Where things are. Nothing is written outside the build folder, except docs/ and benches/results when that is asked for."""

import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
PEERS = HERE / "peers"
VERSIONS = HERE / "versions.toml"
DOCS = ROOT / "docs"
COUNTED = ROOT / "benches" / "results" / "shipped.txt"
"""Instructions of the program as it ships, by `benches/road/run --as shipped`."""
RESULTS = ROOT / "benches" / "results" / "compare.json"

BUILD = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
CACHE = BUILD / "compare"
"""Peers as they were installed, their configuration as it was filled in, and everything that was measured."""
