"""Cold pulls by our server and by containerd (the one on PATH) from the same registry on the loopback, taking turns.

Two images: one of about 100 MB in 9 layers, and one of 30,000 small files in 3 layers. Prints seconds (median of the rounds),
CPU seconds of the server and all that it started, and ratios to containerd's. Nothing is asserted. ext4 takes a millisecond to
create a file where many were deleted just before, so a TMPDIR in memory measures the programs instead of the disk. Needs root,
containerd, skopeo, docker-registry and busybox.

    TMPDIR=/dev/shm python -m bench.pull [--rounds 7] [--only containerd,runc] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any, Final

from bench.node import Peer, client_of, peers_for
from bench.report import Row, markdown, save
from crishim.model.image import ImageSpec
from crishim.play import CriClient
from crishim.testing.harness import sandbox_config
from tests.node.registry import File, Layout, folder, tar_of

SMALL_FILES: Final = 30_000
LAYERS: Final = 3
PAUSE: Final = 2.0
"""Seconds for containerd's garbage collection, which goes on after a removal was answered."""


def push_files(place: Path, registry: Any) -> str:
    """An image of small files of 100 to 4,000 bytes, half noise, 25 to a folder."""
    noise = random.Random(1)
    layout = Layout(place / "files")
    layers = []
    for number in range(LAYERS):
        entries = [folder(f"m{number}")]
        for part in range(SMALL_FILES // LAYERS):
            if part % 25 == 0:
                entries.append(folder(f"m{number}/d{part // 25}"))
            size = noise.randrange(100, 4000)
            entries.append(File(f"m{number}/d{part // 25}/f{part}.js", noise.randbytes(size // 2) + b"x" * (size // 2)))
        layers.append(tar_of(*entries))
    layout.image(layers, {"Cmd": ["true"]}, tag="files")
    return str(registry.push(layout, "files", "bench/files:1"))


async def pull(peer: Peer, client: CriClient, image: str) -> tuple[float, float]:
    """Seconds and CPU seconds of one cold pull, whose image is removed again."""
    os.sync()  # so that a pull waits for its own writes only
    before, begun = tree_cpu(peer), time.perf_counter()
    await client.pull_image(ImageSpec(image=image), sandbox_config())
    seconds, cpu = time.perf_counter() - begun, tree_cpu(peer) - before
    await client.remove_image(ImageSpec(image=image))
    await asyncio.sleep(PAUSE)
    return seconds, cpu


def tree_cpu(peer: Peer) -> float:
    """CPU seconds of the server and of its children that ended."""
    assert peer.process is not None
    fields = Path(f"/proc/{peer.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


async def measured(peers: list[Peer], images: dict[str, str], rounds: int) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """For each image and peer the seconds and CPU seconds of each round; a first round warms up and does not count."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {name: {peer.name: [] for peer in peers} for name in images}
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for peer in peers:
            peer.start()
            clients[peer.name] = await stack.enter_async_context(client_of(peer))
        for number in range(rounds + 1):
            peers = peers[1:] + peers[:1]
            for name, image in images.items():
                for peer in peers:
                    spent = await pull(peer, clients[peer.name], image)
                    if number:
                        found[name][peer.name].append(spent)
    return found


def rows_of(found: dict[str, dict[str, list[tuple[float, float]]]]) -> list[Row]:
    """The medians of times, and of CPU times of servers with what they have started."""
    rows = []
    for image, peers in found.items():
        medians = {name: [statistics.median(part) for part in zip(*spent, strict=True)] for name, spent in peers.items()}
        rows.append(Row(f"cold pull of {image}", "s", {name: value[0] for name, value in medians.items()}))
        rows.append(Row(f"cold pull of {image}: CPU", "s", {name: value[1] for name, value in medians.items()}))
    return rows


def main() -> None:
    """Measure the selected peers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="containerd,runc")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    with peers_for(options.only.split(",")) as ((place, registry), peers):
        images = {"100 MB in 9 layers": peers[0].big, "30,000 files": push_files(Path(place), registry)}
        rows = rows_of(asyncio.run(measured(peers, images, options.rounds)))
    print(markdown(rows))
    save(options.json, rows)


if __name__ == "__main__":
    main()
