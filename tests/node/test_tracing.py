"""Spans of the programs that a node runs."""

import logging
from pathlib import Path

import pytest

from crishim.cli.daemon import RpcFilter
from crishim.cni.results import PluginFailed
from crishim.cri import Dispatcher, pb
from crishim.errors import CreateRefused, NotFound, Unknown
from crishim.images.store import ContentStore
from crishim.model.image import ImageSpec
from crishim.shimv2.client.binary import ShimBinary
from crishim.system import SystemClock
from crishim.testing.harness import IMAGE
from tests.backends.runc.world import needs, node
from tests.cni.world import Node, namespace, sandbox
from tests.node.registry import File, Layout, folder, serving, tar_of
from tests.traces import Recording, attributes, status

pytestmark = pytest.mark.node


@needs("runc", "conmon", "busybox")
async def test_a_pod_of_runc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The runtime's create and start are below the verbs that wait for them, with the container's id; a start that
    is refused is an error up to the RPC, and its line in the log has the trace.
    """
    recording = Recording()
    caplog.handler.addFilter(RpcFilter())
    caplog.set_level(logging.WARNING, logger="crishim.rpc")
    pod = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="web", namespace="shop", uid="u"))

    def request(name: str, *argv: str) -> pb.CreateContainerRequest:
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=IMAGE), command=argv, log_path=f"{name}.log"
        )
        return pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=pod)

    async with node(tmp_path) as world:
        dispatch = Dispatcher(world.services, tracer=recording.tracer)
        sandbox_id = (await dispatch(pb.RunPodSandboxRequest(config=pod))).pod_sandbox_id
        container_id = (await dispatch(request("main", "sleep", "600"))).container_id
        await dispatch(pb.StartContainerRequest(container_id=container_id))
        await dispatch(pb.StopContainerRequest(container_id=container_id))
        await dispatch(pb.RemoveContainerRequest(container_id=container_id))
        good = recording.spans
        broken_id = (await dispatch(request("broken", "/no/such/program"))).container_id
        with pytest.raises(CreateRefused) as refused:
            await dispatch(pb.StartContainerRequest(container_id=broken_id))
    assert {
        ("runc create", "backend create_container"),
        ("runc start", "backend start_container"),
        ("backend create_container", "CreateContainer"),
        ("backend start_container", "StartContainer"),
        ("backend kill_container", "StopContainer"),
        ("backend remove_container", "RemoveContainer"),
    } <= set(recording.parents())
    commands = [span for span in good if span.name in {"runc create", "runc start"}]
    assert {sandbox_id, container_id} == {attributes(span)["container.id"] for span in commands}  # a pause container, too
    assert {"runc"} == {attributes(span)["process.executable.name"] for span in commands}
    assert {"UNSET"} == {status(span) for span in commands}
    failed = [span for span in recording.spans if status(span) == "ERROR"]
    names = [span.name.rpartition("/")[2] for span in failed]
    assert {"runc create", "backend start_container", "StartContainer"} <= set(names)
    assert "StartContainer" == names[-1]
    lines = [record.__dict__["rpc"] for record in caplog.records if record.getMessage().startswith("StartContainer")]
    assert failed[-1].context is not None
    assert f"{failed[-1].context.trace_id:032x}" == lines[-1]["trace_id"]
    assert refused.value.message == failed[-1].status.description
    assert {"shop/web"} == {line["pod"] for line in lines}


@needs("unshare")
async def test_plugins_of_the_network(tmp_path: Path) -> None:
    """Each call of a CNI plugin is a span, with the plugin's program and the sandbox; a failing one is an error."""
    recording, world = Recording(), Node(tmp_path)
    world.plugin("gives", """[ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/16"}]}'""")
    world.plugin("fails", """[ $CNI_COMMAND != ADD ] || { echo '{"code": 7, "msg": "no such bridge"}'; exit 1; }""")
    world.conflist({"type": "gives"}, {"type": "fails"})
    with namespace(tmp_path / "netns") as netns, recording.inside():
        with pytest.raises(PluginFailed):
            await world.network.set_up(sandbox(netns=netns))
        await world.network.tear_down(sandbox())
    expected = [("cni ADD gives", "UNSET"), ("cni ADD fails", "ERROR"), ("cni DEL fails", "UNSET"), ("cni DEL gives", "UNSET")]
    assert expected == [(span.name, status(span)) for span in recording.spans if span.name.startswith("cni ")]
    failed = recording.named("cni ADD fails")
    assert ("fails", "aaaaaaaa") == (attributes(failed)["process.executable.name"], attributes(failed)["sandbox.id"])
    assert "no such bridge" in (failed.status.description or "")


@needs("skopeo", "docker-registry")
async def test_pulls(tmp_path: Path) -> None:
    """Runs of skopeo are below the pull, with their exit code."""
    recording, layout = Recording(), Layout(tmp_path / "layout")
    layout.image([tar_of(folder("etc"), File("etc/hello", b"hello"))], tag="t")
    store = ContentStore(tmp_path / "store", SystemClock())
    with serving(tmp_path / "registry") as registry:
        reference = registry.push(layout, "t", "team/image:1")
        with recording.inside():
            await store.pull(ImageSpec(image=reference), None, None)
            with pytest.raises(NotFound):
                await store.pull(ImageSpec(image=reference.replace("image:1", "none:1")), None, None)
    await store.close()
    runs = [span for span in recording.spans if span.name == "skopeo"]
    codes = [attributes(span)["process.exit.code"] for span in runs]
    assert (0, False) == (codes[0], codes[-1] == 0)
    assert {"skopeo"} == {attributes(span)["process.executable.name"] for span in runs}
    assert {("skopeo", "rpc")} == {pair for pair in recording.parents() if pair[0] == "skopeo"}


async def test_shims(tmp_path: Path) -> None:
    """A run of a shim's binary is a span, and an error if it fails."""
    recording = Recording()
    program = tmp_path / "containerd-shim-mine-v2"
    program.write_text("#!/bin/sh\necho out of memory >&2; exit 1\n")
    program.chmod(0o755)
    with recording.inside(), pytest.raises(Unknown):
        await ShimBinary(program=str(program), namespace="ns", address="/a").start("t1", tmp_path)
    failed = recording.named("containerd-shim-mine-v2 start")
    assert ("ERROR", str(program)) == (status(failed), attributes(failed)["process.executable.path"])
    assert "out of memory" in (failed.status.description or "")
