"""The connection to a shim with the Sandbox service, over a server in this process."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from crishim._proto import shim_sandbox_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.errors import CrishimError, InvalidArgument, NotFound, Unavailable, Unimplemented, Unknown
from crishim.model.stats import CgroupUsage
from crishim.shimv2.client.connection import ShimLink
from crishim.shimv2.client.sandbox_link import SandboxLink
from crishim.shimv2.wire.messages import SANDBOX_SERVICE, Bootstrap
from crishim.shimv2.wire.metrics import encode_metrics
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Handler
from tests.ttrpc.world import serving


@contextlib.asynccontextmanager
async def linked(methods: Mapping[str, Handler]) -> AsyncIterator[SandboxLink]:
    """A link for the sandbox `pod` to a shim with these methods of the service."""
    handlers = {(SANDBOX_SERVICE, method): handler for method, handler in methods.items()}
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), handlers) as address:
            link = await ShimLink.connect(Bootstrap(address), "ns")
            try:
                yield SandboxLink(link, "pod")
            finally:
                await link.close()


def answering(error: CrishimError) -> Handler:
    """A method that fails."""

    async def fail(_: Request) -> bytes:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "served"),
    [
        (NotFound("sandbox", "pod"), True),
        (Unimplemented("PingSandbox", "not here"), False),
        (InvalidArgument("method", "/containerd.runtime.sandbox.v1.Sandbox/PingSandbox does not exist"), False),
    ],
)
async def test_a_shim_says_whether_it_serves_the_service(error: CrishimError, served: bool) -> None:
    """A shim that knows no sandbox yet serves it; one without the method does not."""
    async with linked({"PingSandbox": answering(error)}) as link:
        assert served == await link.is_served()


async def test_a_shim_without_the_service() -> None:
    """A server without any of the methods does not serve it."""
    async with linked({}) as link:
        assert not await link.is_served()


@pytest.mark.parametrize("error", [Unavailable("a moment"), Unknown("no reason")])
async def test_an_error_that_does_not_tell(error: CrishimError) -> None:
    """It is raised: the shim of a pod must not be taken for one that creates the sandbox as a task."""
    async with linked({"PingSandbox": answering(error)}) as link:
        with pytest.raises(type(error)):
            await link.is_served()


async def test_the_usage_of_a_sandbox() -> None:
    """It is asked of the service, since the task service need not know the sandbox."""
    data = encode_metrics(CgroupUsage(), unified=True)

    async def metrics(request: Request) -> bytes:
        assert "pod" == pb.SandboxMetricsRequest.FromString(request.payload).sandbox_id
        return pb.SandboxMetricsResponse(metrics=types_pb.Metric(id="pod", data=data)).SerializeToString()

    async with linked({"SandboxMetrics": metrics}) as link:
        stats = await link.stats("pod")
        assert (data.type_url, data.value) == (stats.type_url, stats.value)
