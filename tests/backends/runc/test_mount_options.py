# ruff: noqa: ASYNC240 - nothing else runs on these loops, so a short blocking read delays nothing
"""Further options of mounts, as the kernel has them inside."""

from pathlib import Path

import pytest

from crishim.model.container import Mount
from crishim.pods.backend import OciPodBackend
from tests.backends.runc.world import needs, node, without_hybrid


@pytest.mark.node
@pytest.mark.parametrize("runtime", [pytest.param(name, marks=needs(name, "conmon", "busybox")) for name in ("runc", "crun")])
async def test_the_kernel_keeps_them(tmp_path: Path, runtime: str) -> None:
    """A mount has the flags that its request names (CRI, `Mount.mount_options`), and another of the same folder has not."""
    without_hybrid()
    (tmp_path / "data").mkdir()
    data = str(tmp_path / "data")
    mounts = (
        Mount(container_path="/flagged", host_path=data, mount_options=("noexec", "nosuid", "nodev")),
        Mount(container_path="/plain", host_path=data),
    )
    async with node(tmp_path, runtime=runtime) as world:
        container = await world.run_container(await world.run_sandbox(), "main", "sleep", "600", mounts=mounts)
        assert isinstance(world.backend, OciPodBackend)
        pid = (await world.backend._runtime.state(container)).pid
        rows = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        flags = {row[4]: set(row[5].split(",")) for row in rows}
        assert {"rw", "noexec", "nosuid", "nodev"} <= flags["/flagged"]
        assert "noexec" not in flags["/plain"]
