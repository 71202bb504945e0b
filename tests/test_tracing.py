"""Traces: with the SDK's own exporter in memory, and with a collector that speaks OTLP over gRPC."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

from crishim import app
from crishim.cli.daemon import RpcFilter
from crishim.config import TracingConfig
from crishim.cri import Dispatcher, pb
from crishim.errors import InvalidArgument, NotFound, Unavailable
from crishim.play import connect
from crishim.server import serve
from crishim.testing import Harness, failing
from crishim.testing.doubles import settle
from crishim.testing.harness import IMAGE, sandbox_config
from crishim.tracing import exporting
from tests.test_app import config_in
from tests.traces import Recording, attributes, status

SANDBOX = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="web", namespace="shop", uid="u-1"))
POD = {"k8s.pod.name": "web", "k8s.namespace.name": "shop", "k8s.pod.uid": "u-1"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def create(dispatch: Dispatcher, sandbox_id: str) -> str:
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="main"), image=pb.ImageSpec(image=IMAGE))
    request = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=SANDBOX)
    return str((await dispatch(request)).container_id)


async def test_an_rpc_is_a_span_with_children() -> None:
    """RunPodSandbox and CreateContainer have a span each, with the backend's verbs and the steps of the network below."""
    recording = Recording()
    async with Harness() as world:
        dispatch = Dispatcher(world.services, tracer=recording.tracer)
        sandbox_id = (await dispatch(pb.RunPodSandboxRequest(config=SANDBOX))).pod_sandbox_id
        container_id = await create(dispatch, sandbox_id)
    assert [
        ("CreateContainer", ""),
        ("RunPodSandbox", ""),
        ("backend create_container", "CreateContainer"),
        ("backend start_sandbox", "RunPodSandbox"),
        ("image status", "CreateContainer"),
        ("namespaces", "RunPodSandbox"),
        ("namespaces", "RunPodSandbox"),
        ("network", "RunPodSandbox"),
    ] == recording.parents()
    rpc = {"rpc.system": "grpc", "rpc.service": "runtime.v1.RuntimeService", "rpc.grpc.status_code": 0}
    run, made = recording.named("RunPodSandbox"), recording.named("CreateContainer")
    assert {**rpc, **POD, "rpc.method": "RunPodSandbox", "sandbox.id": sandbox_id} == attributes(run)
    ids = {"sandbox.id": sandbox_id, "container.id": container_id, "container.name": "main"}
    assert {**rpc, **POD, **ids, "rpc.method": "CreateContainer"} == attributes(made)
    assert ("runtime.v1.RuntimeService/RunPodSandbox", "SERVER", "UNSET") == (run.name, run.kind.name, status(run))
    assert {"container.runtime.name": "fake"} == attributes(recording.named("backend start_sandbox"))
    assert ("crishim", "1.2.3") == (run.resource.attributes["service.name"], run.resource.attributes["service.version"])


async def test_the_pod_of_an_id_is_known() -> None:
    """The span of an RPC that names only a container, or a prefix of its id, has the names of the container and of its pod."""
    recording = Recording()
    async with Harness() as world:
        dispatch = Dispatcher(world.services)
        sandbox_id = (await dispatch(pb.RunPodSandboxRequest(config=SANDBOX))).pod_sandbox_id
        container_id = await create(dispatch, sandbox_id)
        await Dispatcher(world.services, tracer=recording.tracer)(pb.StartContainerRequest(container_id=container_id[:8]))
    expected = {**POD, "container.id": container_id[:8], "container.name": "main"}
    assert expected.items() <= attributes(recording.named("StartContainer")).items()


async def test_a_pull_is_a_span() -> None:
    """PullImage has the image's name and id, and the pull below."""
    recording = Recording()
    async with Harness() as world:
        request = pb.PullImageRequest(image=pb.ImageSpec(image=IMAGE), sandbox_config=SANDBOX)
        image_id = (await Dispatcher(world.services, tracer=recording.tracer)(request)).image_ref
    assert [("PullImage", ""), ("image pull", "PullImage")] == recording.parents()
    expected = {**POD, "container.image.name": IMAGE, "container.image.id": image_id}
    assert expected.items() <= attributes(recording.named("PullImage")).items()


async def test_a_failing_verb_is_an_error() -> None:
    """The spans of a verb that fails and of its RPC have the error; a client's mistake is no error of the server's span."""
    recording = Recording()
    async with Harness() as world:
        broken = failing(world.fake, "start_sandbox", error=Unavailable("the engine \udcff is away"))
        async with Harness(broken) as other:
            dispatch = Dispatcher(other.services, tracer=recording.tracer)
            with pytest.raises(Unavailable):
                await dispatch(pb.RunPodSandboxRequest(config=SANDBOX))
            with pytest.raises(NotFound):
                await dispatch(pb.ContainerStatusRequest(container_id="none"))
    verb, rpc = recording.named("backend start_sandbox"), recording.named("RunPodSandbox")
    assert ["ERROR", "ERROR"] == [status(verb), status(rpc)]
    assert "the engine ? is away" == verb.status.description
    assert ["UNAVAILABLE", "UNAVAILABLE"] == [attributes(span)["error.type"] for span in (verb, rpc)]
    assert 14 == attributes(rpc)["rpc.grpc.status_code"]
    missing = recording.named("ContainerStatus")
    assert ("UNSET", 5) == (status(missing), attributes(missing)["rpc.grpc.status_code"])


async def test_the_wait_for_an_exit_is_no_part_of_the_start() -> None:
    """A container that ends long after StartContainer adds nothing to its trace."""
    recording = Recording()
    async with Harness() as world:
        dispatch = Dispatcher(world.services, tracer=recording.tracer)
        sandbox_id = (await dispatch(pb.RunPodSandboxRequest(config=SANDBOX))).pod_sandbox_id
        container_id = await create(dispatch, sandbox_id)
        await dispatch(pb.StartContainerRequest(container_id=container_id))
        world.fake.exits(container_id, 0)
        await settle()
        reply = await dispatch(pb.ContainerStatusRequest(container_id=container_id))
    assert pb.CONTAINER_EXITED == reply.status.state
    assert ["backend start_container"] == [name for name, parent in recording.parents() if parent == "StartContainer"]


async def test_work_goes_on_in_the_trace_of_the_client_that_left() -> None:
    """A start whose client has disconnected ends in its client's trace; the retry that joins it has a span without children."""
    recording, begun, go = Recording(), asyncio.Event(), asyncio.Event()
    async with Harness() as world:
        real = world.fake.start_sandbox

        async def slow(spec: Any) -> Any:
            begun.set()
            await go.wait()
            return await real(spec)

        world.fake.start_sandbox = slow  # type: ignore[method-assign]
        dispatch = Dispatcher(world.services, tracer=recording.tracer)
        first = asyncio.ensure_future(dispatch(pb.RunPodSandboxRequest(config=SANDBOX)))
        await begun.wait()
        first.cancel()
        await asyncio.wait({first})
        retry = asyncio.ensure_future(dispatch(pb.RunPodSandboxRequest(config=SANDBOX)))
        await asyncio.sleep(0)
        go.set()
        await retry
    runs = [span for span in recording.spans if span.name.endswith("RunPodSandbox")]
    assert [1, 0] == [attributes(span)["rpc.grpc.status_code"] for span in runs]
    verb = recording.named("backend start_sandbox")
    assert verb.parent == runs[0].context


async def test_log_lines_name_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    """A line that is logged while a traced RPC is served has the id of its trace."""
    recording = Recording()
    caplog.handler.addFilter(RpcFilter())
    async with Harness() as world:
        with caplog.at_level(logging.INFO, logger="crishim.rpc"):
            await Dispatcher(world.services, tracer=recording.tracer)(pb.RunPodSandboxRequest(config=SANDBOX))
    (context,) = [span.context for span in recording.spans if span.name.endswith("RunPodSandbox")]
    assert context is not None
    trace_id = f"{context.trace_id:032x}"
    expected = {"rpc": 1, "pod": "shop/web", "trace_id": trace_id}
    assert [expected] == [record.__dict__["rpc"] for record in caplog.records if record.name == "crishim.rpc"]


@pytest.mark.parametrize(("sampling", "expected"), [(0.0, 0), (1.0, 3)])
async def test_a_share_is_sampled(sampling: float, expected: int) -> None:
    """RPCs without a trace of their client's are recorded by the configured share."""
    recording = Recording(sampling)
    async with Harness() as world:
        for _ in range(3):
            await Dispatcher(world.services, tracer=recording.tracer)(pb.VersionRequest())
    assert expected == len(recording.spans)


@pytest.mark.parametrize(("flags", "expected"), [("01", [TRACE]), ("00", [])])
async def test_the_client_decides_about_its_trace(flags: str, expected: list[str], tmp_path: Path) -> None:
    """A call in a client's sampled trace belongs to it, whatever the share is; one in a trace that is not sampled is not
    recorded.
    """
    recording = Recording(0.0 if expected else 1.0)
    async with Harness() as world, serve(Dispatcher(world.services, tracer=recording.tracer), tmp_path / "cri.sock"):
        await version(tmp_path / "cri.sock", ("traceparent", f"00-{TRACE}-{PARENT}-{flags}"))
    assert expected == [f"{span.context.trace_id:032x}" for span in recording.spans if span.context]
    assert [int(PARENT, 16)] * len(expected) == [span.parent.span_id for span in recording.spans if span.parent]


async def version(path: Path, *metadata: tuple[str, str | bytes]) -> None:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        method = channel.unary_unary(
            "/runtime.v1.RuntimeService/Version",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.VersionResponse.FromString,
        )
        await method(pb.VersionRequest(), metadata=metadata, timeout=10)


@pytest.mark.parametrize(
    "value",
    ["", "00", "garbage", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01", "x" * 5000],
)
async def test_an_invalid_trace_context_is_none(value: str, tmp_path: Path) -> None:
    """A call with an invalid traceparent is served, and begins a trace of its own."""
    recording = Recording()
    async with Harness() as world, serve(Dispatcher(world.services, tracer=recording.tracer), tmp_path / "cri.sock"):
        await version(tmp_path / "cri.sock", ("traceparent", value), ("tracestate", "=,;" * 50), ("traceparent-bin", b"\xff"))
    (span,) = recording.spans
    assert span.parent is None


async def test_a_trace_has_no_limitless_texts() -> None:
    """Attributes and errors are cut: a name of a megabyte does not reach the collector."""
    recording = Recording()
    config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="n" * 1_000_000, namespace="ns", uid="u"))
    async with Harness() as world:
        await Dispatcher(world.services, tracer=recording.tracer)(pb.RunPodSandboxRequest(config=config))
    assert 2048 == len(attributes(recording.named("RunPodSandbox"))["k8s.pod.name"])


class Collector:
    """An OTLP receiver: what arrives is in `spans`. While `hanging`, it never responds."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.called = asyncio.Event()
        self.hanging = False

    async def export(self, request: Any, _: Any) -> Any:
        self.called.set()
        if self.hanging:
            await asyncio.Event().wait()
        for group in request.resource_spans:
            self.resources.append({each.key: each.value.string_value for each in group.resource.attributes})
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return otlp.ExportTraceServiceResponse()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its endpoint."""
        server = grpc.aio.server()
        method: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self.export,
            request_deserializer=otlp.ExportTraceServiceRequest.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await server.stop(None)


async def test_a_whole_runtime_exports_by_otlp(tmp_path: Path) -> None:
    """The server of a configuration with an endpoint sends its spans to a collector, the last ones when it ends."""
    collector = Collector()
    async with collector.serving() as endpoint:
        config = config_in(tmp_path, tracing=TracingConfig(endpoint=endpoint, sampling=1.0))
        async with app.running(config), connect(f"unix://{config.listen}") as client:
            await client.run_sandbox(sandbox_config("web"))
    (rpc,) = [span for span in collector.spans if span.name.endswith("/RunPodSandbox")]
    (verb,) = [span for span in collector.spans if span.name == "backend start_sandbox"]
    assert (rpc.trace_id, rpc.span_id) == (verb.trace_id, verb.parent_span_id)
    assert "web" in [each.value.string_value for each in rpc.attributes if each.key == "k8s.pod.name"]
    assert "crishim" == collector.resources[0]["service.name"]


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


async def test_a_collector_that_hangs_harms_nothing() -> None:
    """Calls are answered while an export hangs, and the server ends although the collector never responds."""
    collector = Collector()
    collector.hanging = True
    async with (
        asyncio.timeout(30),
        collector.serving() as endpoint,
        Harness() as world,
        exporting(endpoint, 1.0, "1") as tracer,
    ):
        dispatch = Dispatcher(world.services, tracer=tracer)
        for _ in range(600):  # more than a batch, which is exported at once
            await dispatch(pb.VersionRequest())
        await collector.called.wait()
        reply = await dispatch(pb.VersionRequest())
    assert ("crishim", []) == (reply.runtime_name, collector.spans)


async def test_the_end_does_not_block_the_loop() -> None:
    """While the last spans wait for a collector that hangs, the loop serves other calls."""
    collector, served = Collector(), 0
    collector.hanging = True
    async with collector.serving() as endpoint, Harness() as world, contextlib.AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(exporting(endpoint, 1.0, "1"))
        await Dispatcher(world.services, tracer=tracer)(pb.VersionRequest())
        ending = asyncio.ensure_future(stack.aclose())
        await collector.called.wait()
        while not ending.done():
            await Dispatcher(world.services)(pb.VersionRequest())
            served += 1
            await asyncio.sleep(0)
        await ending
    assert served > 1


async def test_a_collector_that_is_away_harms_nothing() -> None:
    """Calls are answered without a collector, more than its queue has room for, and the server ends."""
    async with Harness() as world, asyncio.timeout(30), exporting(f"http://127.0.0.1:{closed_port()}", 1.0, "1") as tracer:
        dispatch = Dispatcher(world.services, tracer=tracer)
        replies = [await dispatch(pb.VersionRequest()) for _ in range(5000)]
    assert {"crishim"} == {reply.runtime_name for reply in replies}


def test_a_server_ends_although_its_collector_hangs() -> None:
    """The process ends beside a collector that accepts connections and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        code = (
            "import asyncio\n"
            "from crishim.tracing import exporting\n"
            "async def main():\n"
            f"    async with exporting('http://127.0.0.1:{silent.getsockname()[1]}', 1.0, '1') as tracer:\n"
            "        tracer.begin_rpc('service', 'method', ()).end()\n"
            "asyncio.run(main())\n"
            "print('ended')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=25)
    assert (0, "ended\n") == (done.returncode, done.stdout)


def test_nothing_is_loaded_unless_configured(tmp_path: Path) -> None:
    """A server without an endpoint loads nothing of OpenTelemetry."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from crishim import app\n"
        "from crishim.config import parse\n"
        "async def main():\n"
        f"    async with app.running(parse([('test', Path('{tmp_path}/crishim.toml').read_bytes())])):\n"
        "        print(sorted(name for name in sys.modules if name.partition('.')[0] == 'opentelemetry'))\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "crishim.toml").write_text(
        f'listen = "{tmp_path}/s"\nstate = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\nnri.enabled = false\n'
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "[]\n") == (done.returncode, done.stdout), done.stderr


async def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured endpoint without the extra stops the start, and the error says how to get it."""
    monkeypatch.setitem(sys.modules, "crishim.tracing", None)
    config = config_in(tmp_path, tracing=TracingConfig(endpoint="http://127.0.0.1:4317"))
    with pytest.raises(InvalidArgument, match=r"crishim\[tracing\]") as refused:
        async with app.running(config):
            pass
    assert "tracing.endpoint" == refused.value.field
