from pathlib import Path

import pytest

from crishim.cri import Dispatcher
from crishim.errors import Code
from crishim.model.image import ImageSpec
from crishim.play import CallError, CriClient, connect, direct
from crishim.server import serve
from crishim.testing import Harness
from crishim.testing.harness import IMAGE, container_config, sandbox_config

LABEL = {"app": "x"}


async def test_a_pods_life_over_a_real_socket(tmp_path: Path) -> None:
    """Every verb of the client reaches the service through gRPC and brings its answer back."""
    socket = tmp_path / "cri.sock"
    async with Harness() as world, serve(Dispatcher(world.services), socket), connect(f"unix://{socket}") as client:
        assert "crishim" == (await client.version()).runtime_name
        assert 2 == len((await client.status()).conditions)
        assert "" == await client.cgroup_driver()
        image = await client.image_status(ImageSpec(image=IMAGE))
        assert image is not None
        assert await client.image_status(ImageSpec(image="registry.example/none:1")) is None
        sandbox = sandbox_config("pod", labels=LABEL)
        assert await client.pull_image(ImageSpec(image=IMAGE), sandbox) == image.id
        sandbox_id = await client.run_sandbox(sandbox)
        assert "10.88.0.1" == (await client.sandbox_status(sandbox_id)).network.ip
        config = container_config("main", "sleep", labels=LABEL)
        container_id = await client.create_container(sandbox_id, config, sandbox)
        await client.start_container(container_id)
        assert b"hello\n" == (await client.exec_sync(container_id, ("print", "hello"), 5)).stdout
        assert [container_id] == [one.id for one in await client.list_containers(LABEL)]
        await client.stop_container(container_id, 5)
        assert 143 == (await client.container_status(container_id)).exit_code
        await client.remove_container(container_id)
        assert [sandbox_id] == [one.id for one in await client.list_sandboxes(LABEL)]
        await client.stop_sandbox(sandbox_id)
        await client.remove_sandbox(sandbox_id)
        with pytest.raises(CallError) as gone:
            await client.container_status(container_id)
        assert (Code.NOT_FOUND, "ContainerStatus") == (gone.value.code, gone.value.method)


async def test_errors_are_the_same_without_a_socket() -> None:
    """Straight into the dispatcher, a refusal has the code and text that gRPC would have carried."""
    async with Harness() as world:
        client = CriClient(direct(Dispatcher(world.services)))
        with pytest.raises(CallError) as refused:
            await client.sandbox_status("none")
        assert (Code.NOT_FOUND, "sandbox 'none' not found") == (refused.value.code, refused.value.message)
