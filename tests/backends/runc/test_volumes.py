"""Volumes of an image in a container that runs."""

from pathlib import Path

import pytest

from crishim.model.container import LinuxContainerConfig
from crishim.model.image import ImageConfig
from crishim.model.security import LinuxContainerSecurityContext
from crishim.testing.harness import IMAGE
from tests.backends.runc.world import needs, node, without_hybrid

pytestmark = [pytest.mark.node, needs("runc", "crun", "conmon", "busybox")]


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_volumes_are_there_and_writable(tmp_path: Path, runtime: str, *, readonly: bool) -> None:
    """Each container has folders of its own, with the image's content, writable with a read-only root, gone with it."""
    without_hybrid()
    async with node(tmp_path, runtime=runtime) as world:
        world.images.add(IMAGE, ImageConfig(volumes=("/none", "/etc", "/bin/sh", "/dangling/x")))
        linux = LinuxContainerConfig(security_context=LinuxContainerSecurityContext(readonly_rootfs=readonly))
        sandbox = await world.run_sandbox()
        for name in ("one", "two"):
            container = await world.run_container(sandbox, name, "sleep", "600", linux=linux)
            script = "test ! -e /none/x && echo x > /none/x && echo y > /etc/y && head -n 1 /etc/passwd && touch /tmp/x"
            result = await world.services.streams.exec_sync(container, ("sh", "-c", script), 10)
            assert (1 if readonly else 0, b"root:x:0:0:root:/:/bin/sh\n") == (result.exit_code, result.stdout), result.stderr
            volumes = tmp_path / "run" / "containers" / container / "volumes"
            assert {"passwd", "group", "y", "x"} == {path.name for path in volumes.glob("*/*")} & {"passwd", "group", "y", "x"}
            await world.services.containers.remove(container)
            assert not volumes.exists()
