"""A checkpoint and a restore of a container whose process has 100 MB, beside `runc checkpoint` of the same container alone.

Prints the seconds (median) of CheckpointContainer, of runc's part of it, and of a restore (CreateContainer from the archive and
StartContainer), and the size of the archive. Needs root, runc, conmon, busybox and criu 4.2 (`make criu`, and .venv/criu on
PATH).

    python -m bench.checkpoint [--times 5] [--megabytes 100]
"""

import argparse
import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from crishim.model.container import ContainerState
from crishim.model.image import ImageSpec
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import node


async def measure(folder: Path, times: int, megabytes: int) -> None:
    """Measure, and print the table."""
    script = f"busybox dd if=/dev/urandom bs={megabytes}M count=1 iflag=fullblock 2>/dev/null | sleep 6000"
    whole, alone, restore, size = [], [], [], 0
    async with node(folder, runtime="runc") as world:
        pod = await world.run_sandbox(log_directory=str(folder / "logs"))
        container = await world.run_container(pod, "holder", "sh", "-c", script)
        await until(lambda: resident(folder) > megabytes << 20)
        services = world.services
        for number in range(times):
            archive = folder / f"{number}.tar"
            began = time.perf_counter()
            await services.containers.checkpoint(container, str(archive), 0)
            whole.append(time.perf_counter() - began)
            size = archive.stat().st_size
            images = folder / "images"
            began = time.perf_counter()
            await asyncio.to_thread(dump, folder, container, images)
            alone.append(time.perf_counter() - began)
            await asyncio.to_thread(shutil.rmtree, images)
            await services.containers.remove(container)
            began = time.perf_counter()
            container = await world.create_container(pod, f"again{number}", image=ImageSpec(image=str(archive)))
            await services.containers.start(container)
            restore.append(time.perf_counter() - began)
            status = (await services.containers.status(container, verbose=False)).status
            assert status.state is ContainerState.RUNNING
            archive.unlink()
    dumped, ours = statistics.median(alone), statistics.median(whole)
    print(f"a process with {megabytes} MB, {times} times, seconds (median)")
    print(f"  runc checkpoint alone   {dumped:6.2f}")
    print(f"  CheckpointContainer     {ours:6.2f}  = {ours / dumped:.2f}")
    print(f"  create and start again  {statistics.median(restore):6.2f}")
    print(f"  the archive             {size / (1 << 20):6.1f} MiB")


def resident(folder: Path) -> int:
    """The bytes of the largest process that has its root below a folder."""
    found = [0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if str(folder) in str((status.parent / "root").readlink()) or "busybox" in status.read_text().splitlines()[0]:
                line = next((line for line in status.read_text().splitlines() if line.startswith("VmRSS")), "VmRSS: 0")
                found.append(int(line.split()[1]) * 1024)
        except OSError:
            continue
    return max(found)


def dump(folder: Path, container: str, images: Path) -> None:
    """Runc's part alone."""
    places = (f"--image-path={images}", f"--work-path={images}")
    command = ("runc", "--root", str(folder / "run" / "runtime"), "checkpoint", "--leave-running", "--file-locks", *places)
    subprocess.run([*command, container], check=True, capture_output=True)


def main() -> None:
    """Measure in a folder of its own."""
    parser = argparse.ArgumentParser(description="Measure checkpoints.")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(measure(Path(made), arguments.times, arguments.megabytes))


if __name__ == "__main__":
    main()
