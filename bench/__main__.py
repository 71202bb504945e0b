"""All benches that compare a node of ours with its peers, in one run: a table in markdown, and a picture for the README.

Peers are taken where they are on PATH, and absent ones are named. The short mode takes some minutes, `--long` half an hour;
each bench can be run alone. All servers have their files in memory unless TMPDIR is set: a disk that others use decides more
than the programs do. Needs root, runc, conmon, skopeo, docker-registry and busybox.

    python -m bench [--long] [--out docs/pictures]

Writes `bench.json`, the numbers, and `bench.svg`, which `python -m bench.report` draws of them.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import attrs

from bench.report import Row, load, markdown, picture, save

PEERS: Final = {
    "containerd": ("containerd", "containerd-shim-runc-v2"),
    "crio": ("crio", "pinns"),
    "runc": ("runc",),
    "crun": ("crun",),
}
"""What each peer needs on PATH. The names of runtimes stand for our server over them."""

SHORT: Final = {
    "node": ("--pods", "12", "--many", "40"),
    "pull": ("--rounds", "5"),
    "stats": ("--pods", "40", "--calls", "11"),
}
LONG: Final = {
    "node": ("--pods", "40", "--many", "150"),
    "pull": ("--rounds", "15"),
    "stats": ("--pods", "100", "--calls", "25"),
}
SCALE: Final = (("--pods", "10,50", "--fake", "10,500,2000"), ("--pods", "10,100,250,500", "--fake", "10,500,2000"))
DRAWN: Final = (
    "whole pod start",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox and RemovePodSandbox",
    "pods a second, 8 clients",
    "ListContainers",
    "ListPodSandboxStats",
    "restart with its pods",
    "memory of helpers for each pod",
    "memory of the server",
    "cold pull of 100 MB in 9 layers",
    "cold pull of 30,000 files",
)
"""The rows of the picture, without the number of pods in their names."""


def run(bench: str, *options: str) -> list[Row]:
    """Run a bench, whose output goes where ours goes, and return its rows; none if it fails."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", f"bench.{bench}", *options, *(["--json", file.name] if bench != "scale" else [])]
        print(f"\n$ python -m bench.{bench} {' '.join(options)}", flush=True)
        done = subprocess.run(command, check=False, env={"TMPDIR": memory, **os.environ})
        if done.returncode or bench == "scale":
            print(f"bench.{bench} ended with {done.returncode}" if done.returncode else "", flush=True)
            return []
        return load(Path(file.name))


def renamed(row: Row) -> Row:
    """A row with our peers' names as readers know them."""
    names = {name: "CRI-O" if name == "crio" else name.replace("crishim-", "crishim, ") for name in row.values}
    return attrs.evolve(row, values={names[name]: value for name, value in row.values.items()})


def main() -> None:
    """Run all, print the table, write numbers and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--out", default="docs/pictures")
    options = parser.parse_args()
    absent = {peer: [tool for tool in tools if not shutil.which(tool)] for peer, tools in PEERS.items()}
    present = [peer for peer, tools in absent.items() if not tools]
    begun = time.monotonic()
    rows: list[Row] = []
    for bench, sizes in (LONG if options.long else SHORT).items():
        wanted = [peer for peer in present if bench == "node" or peer != "crun"]
        rows += map(renamed, run(bench, *sizes, "--only", ",".join(wanted)))
    run("scale", *SCALE[options.long])
    print(f"\n{markdown(rows)}\n\n{(time.monotonic() - begun) / 60:.0f} minutes; load of the machine {os.getloadavg()[0]:.1f}")
    for peer, tools in absent.items():
        if tools:
            print(f"without {peer}: {', '.join(tools)} is not on PATH")
    save(f"{options.out}/bench.json", rows)
    drawn = [row for row in rows if re.sub(r" of \d+$", "", row.name) in DRAWN]
    Path(options.out, "bench.svg").write_text(picture(drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
