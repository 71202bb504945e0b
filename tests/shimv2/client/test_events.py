import os
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from crishim._proto import shim_events_pb2 as pb
from crishim.errors import Code
from crishim.shimv2.client.connection import ShimEvents
from crishim.ttrpc.client import Client
from crishim.ttrpc.status import TtrpcError

SERVICE = "containerd.services.events.ttrpc.v1.Events"


def event(kind: str, value: bytes) -> bytes:
    request = pb.ForwardRequest()
    request.envelope.event.CopyFrom(Any(type_url=kind, value=value))
    return request.SerializeToString()


async def test_the_container_that_ran_out_of_memory_is_reported(tmp_path: Path) -> None:
    """Only OOM events are used; an invalid event is refused."""
    heard: list[str] = []
    events = ShimEvents(tmp_path / "news", heard.append)
    await events.open()
    await events.open()
    client = await Client.connect(f"unix://{events.address}")
    oom = pb.TaskOOM(container_id="c1").SerializeToString()
    await client.call(SERVICE, "Forward", event("containerd.events.TaskOOM", oom))
    await client.call(SERVICE, "Forward", event("containerd.events.TaskExit", pb.TaskExit(id="c2").SerializeToString()))
    with pytest.raises(TtrpcError) as caught:
        await client.call(SERVICE, "Forward", event("containerd.events.TaskOOM", b"\xff"))
    await client.close()
    await events.close()
    assert ["c1"] == heard
    assert Code.INVALID_ARGUMENT is caught.value.answer


async def test_a_path_that_is_too_long_has_no_events(tmp_path: Path) -> None:
    """A path that no socket can have is no address, and nothing is opened."""
    events = ShimEvents(tmp_path / ("x" * 120), lambda _: None)
    await events.open()
    assert "" == events.address
    await events.close()
    assert not os.access(tmp_path / ("x" * 120), os.F_OK)
