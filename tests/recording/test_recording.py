"""A conversation over real sockets, recorded by the proxy and played again."""

import asyncio
import contextlib
import json
import stat
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from crishim.cri import Dispatcher, pb
from crishim.errors import Code, FailedPrecondition
from crishim.model.container import KeyValue
from crishim.play import CallError, connect
from crishim.play.client import CriClient, direct
from crishim.recording.lines import RecordedCall, to_line, to_request
from crishim.recording.recorder import recording
from crishim.recording.replay import replay
from crishim.server import serve
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import IMAGE, container_config, sandbox_config

KUBELET = Path(__file__).parents[1] / "golden" / "kubelet-1.36.jsonl"


@contextlib.asynccontextmanager
async def recorded(folder: Path, world: Harness) -> AsyncIterator[tuple[CriClient, list[RecordedCall]]]:
    """A client of a runtime whose calls are recorded."""
    calls: list[RecordedCall] = []
    async with (
        serve(Dispatcher(world.services), folder / "runtime.sock"),
        recording(folder / "proxy.sock", f"unix://{folder}/runtime.sock", calls.append),
        connect(f"unix://{folder}/proxy.sock") as client,
    ):
        yield client, calls


async def life(client: CriClient, world: Harness, code: int = 0) -> None:
    """A pod with a container that exits with a code."""
    world.fake.exits("main", code)
    sandbox = sandbox_config("pod")
    pod = await client.run_sandbox(sandbox)
    config = container_config("main", "sleep", envs=(KeyValue("TOKEN", "secret"),))
    container = await client.create_container(pod, config, sandbox)
    await client.start_container(container)
    async with asyncio.timeout(10):
        while pb.CONTAINER_EXITED != (await client.container_status(container)).state:  # noqa: ASYNC110 - CRI has no wait
            await asyncio.sleep(0.01)
    await client.remove_container(container)
    await client.remove_sandbox(pod)


async def played(lines: list[str], world: Harness) -> list[str]:
    """What differs in a recording."""
    return [str(difference) async for difference in replay(lines, direct(Dispatcher(world.services)))]


async def test_a_conversation_is_recorded_and_played_again(tmp_path: Path) -> None:
    """What was recorded plays against another runtime without a difference, whatever ids it gives."""
    async with Harness() as world, recorded(tmp_path, world) as (client, calls):
        await life(client, world, 3)
        with pytest.raises(CallError) as missing:
            await client.container_status("nobody")
    assert Code.NOT_FOUND is missing.value.code
    lines = [json.dumps(to_line(call)) for call in calls]
    methods = [json.loads(line)["method"] for line in lines]
    assert ["RunPodSandbox", "CreateContainer", "StartContainer", "ContainerStatus"] == methods[:4]
    async with Harness() as other:
        await other.run_sandbox("another")
        other.fake.exits("main", 3)
        assert [] == await played(lines, other)
    async with Harness() as third:
        third.fake.exits("main", 4)
        found = await played(lines, third)
    assert any(f"{len(lines) - 3} ContainerStatus: status.exit_code: recorded 3, now 4" in line for line in found), found


async def test_secrets_are_not_recorded(tmp_path: Path) -> None:
    """Credentials, environments and URLs are redacted; environments stay on request."""
    async with Harness() as world, recorded(tmp_path, world) as (client, calls):
        await life(client, world)
        request = pb.PullImageRequest(image=pb.ImageSpec(image=IMAGE), auth=pb.AuthConfig(username="u", password="secret"))
        await client.call("PullImage", request.SerializeToString(), None)
        pod = await client.run_sandbox(sandbox_config("pod"))
        verbose = pb.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
        await client.call("PodSandboxStatus", verbose.SerializeToString(), None)
        await client.call("PortForward", pb.PortForwardRequest(pod_sandbox_id=pod, port=[1]).SerializeToString(), None)
    text = "\n".join(json.dumps(to_line(call)) for call in calls)
    assert ("secret" in text, '"username": "u"' in text, '"url": "REDACTED"' in text) == (False, True, True)
    assert b64encode(b"secret").decode() not in text
    assert '"info": {"info": "REDACTED"}' in text
    assert b64encode(b"secret").decode() in "\n".join(json.dumps(to_line(call, keep_env=True)) for call in calls)


async def test_streams_and_cancellations_are_recorded(tmp_path: Path) -> None:
    """A streamed list has its replies; a call that the client gave up is CANCELLED, and given up in the runtime, too."""
    async with Harness() as world, recorded(tmp_path, world) as (client, calls):
        await client.run_sandbox(sandbox_config("pod"))
        async with grpc.aio.insecure_channel(f"unix://{tmp_path}/proxy.sock") as channel:
            wire: Any = channel
            stream = wire.unary_stream("/runtime.v1.RuntimeService/StreamPodSandboxes")(b"")
            assert 1 == len([reply async for reply in stream])
            events = wire.unary_stream("/runtime.v1.RuntimeService/GetContainerEvents")(b"")
            await asyncio.sleep(0.05)  # for the call to be under way
            events.cancel()
            await until(lambda: "GetContainerEvents" in {call.method for call in calls})
    by_method = {call.method: call for call in calls}
    assert 1 == len(by_method["StreamPodSandboxes"].replies)
    assert Code.CANCELLED is by_method["GetContainerEvents"].code


async def test_a_runtime_that_is_away(tmp_path: Path) -> None:
    """The client gets the error, and it is recorded."""
    calls: list[RecordedCall] = []
    async with (
        recording(tmp_path / "proxy.sock", f"unix://{tmp_path}/nothing.sock", calls.append),
        connect(f"unix://{tmp_path}/proxy.sock") as client,
    ):
        assert 0o600 == stat.S_IMODE((tmp_path / "proxy.sock").stat().st_mode)
        with pytest.raises(CallError):
            await client.version()
    assert [Code.UNAVAILABLE] == [call.code for call in calls]


async def test_a_socket_that_is_taken(tmp_path: Path) -> None:
    """The socket of another server is left alone."""
    async with Harness() as world, serve(Dispatcher(world.services), tmp_path / "cri.sock"):
        with pytest.raises(FailedPrecondition):
            async with recording(tmp_path / "cri.sock", "unix:///x", lambda _: None):
                raise AssertionError


async def test_a_full_disk_stops_no_node(tmp_path: Path) -> None:
    """A call that cannot be written is served all the same."""

    def full(_: RecordedCall) -> None:
        raise OSError(28, "No space left on device")

    async with (
        Harness() as world,
        serve(Dispatcher(world.services), tmp_path / "runtime.sock"),
        recording(tmp_path / "proxy.sock", f"unix://{tmp_path}/runtime.sock", full),
        connect(f"unix://{tmp_path}/proxy.sock") as client,
    ):
        assert "v1" == (await client.version()).runtime_api_version


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"method": "Nothing", "request": {}}',
        '{"method": "Version"}',
        '{"method": "StopContainer", "code": "OK", "request": {"timeout": "x"}}',
    ],
)
async def test_lines_that_are_none(line: str) -> None:
    """A line that is no recorded call is named by its number."""
    async with Harness() as world:
        with pytest.raises(ValueError, match="line 2: "):
            await played(["", line], world)


def test_a_kubelets_recording_is_read() -> None:
    """The lines of a recording of another tool's, which are of the same form, become requests."""
    lines = [json.loads(line) for line in KUBELET.read_text().splitlines()]
    requests = [to_request(line) for line in lines]
    assert (185, True) == (len(requests), any(requests))


async def test_a_kubelets_recording_is_played() -> None:
    """The recorded kubelet's requests are answered as containerd answered them, but for what the fake backend is not."""
    lines = KUBELET.read_text().splitlines()
    async with Harness() as world:
        for line in map(json.loads, lines):
            if (image := line["request"].get("config", {}).get("image", {}).get("image")) is not None:
                world.images.add(image)
        found = await played(
            [line for line in lines if json.loads(line)["method"] in {"RunPodSandbox", "CreateContainer", "StartContainer"}],
            world,
        )
    assert [] == [line for line in found if "RunPodSandbox" in line]
