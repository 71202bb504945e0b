"""CniNetwork with plugins of shell lines."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from crishim.cni.results import PluginFailed
from crishim.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable, Unknown
from crishim.interfaces.seats import NetworkReady
from crishim.model.sandbox import PortMapping
from tests.backends.runc.world import needs
from tests.cni.world import Node, namespace, sandbox

GIVEN = '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/16"}, {"address": "fd00::2/64"}]}'
GIVES = f"[ $CNI_COMMAND != ADD ] || echo '{GIVEN}'"
PASSES = """[ $CNI_COMMAND != ADD ] || sed 's/.*"prevResult": \\(.*\\)}/\\1/' passes.ADD.json"""

pytestmark = [pytest.mark.node, needs("unshare")]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def netns(tmp_path: Path) -> Iterator[str]:
    with namespace(tmp_path / "netns") as path:
        yield path


async def test_plugins_are_called_in_turn(node: Node, netns: str) -> None:
    """ADD goes down the list with the result before, DEL goes up with the whole result; then the cached result is deleted."""
    node.plugin("gives", GIVES)
    node.plugin("passes", PASSES)
    node.conflist({"type": "gives"}, {"type": "passes", "capabilities": {"portMappings": True}})
    spec = sandbox(netns=netns, ports=(PortMapping(container_port=80, host_port=8080),))
    assert ("10.1.0.2", "fd00::2") == await node.network.set_up(spec)
    assert ["test-aaaaaaaa-eth0"] == node.cached()
    await node.network.tear_down(spec)
    await node.network.tear_down(spec)
    assert ["gives ADD", "passes ADD", "passes DEL", "gives DEL"] == node.order()
    assert [] == node.cached()
    result = node.input_of("passes", "ADD")["prevResult"]
    assert "10.1.0.2/16" == result["ips"][0]["address"]
    assert [result, result] == [node.input_of(plugin, "DEL")["prevResult"] for plugin in ("gives", "passes")]
    assert {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]} == node.input_of("passes", "DEL")[
        "runtimeConfig"
    ]
    assert "runtimeConfig" not in node.input_of("gives", "ADD")
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=aaaaaaaa;K8S_POD_UID=uid-a"
    assert f"ADD aaaaaaaa {netns} eth0 {args}" == (node.folder / "gives.calls").read_text().splitlines()[0]


async def test_old_versions_do_not_get_the_result(node: Node, netns: str) -> None:
    """Before 0.4.0 DEL gets no prevResult (CNI specification, history)."""
    node.plugin("gives", GIVES)
    node.conflist({"type": "gives"}, version="0.3.1")
    await node.network.set_up(sandbox(netns=netns))
    await node.network.tear_down(sandbox())
    assert "prevResult" not in node.input_of("gives", "DEL")


async def test_a_failed_add_is_undone(node: Node, netns: str) -> None:
    """After a failing ADD tear_down calls every plugin's DEL, though the service knows no namespace yet."""
    node.plugin("gives", GIVES)
    node.plugin("fails", """[ $CNI_COMMAND != ADD ] || { echo '{"code": 7, "msg": "no such bridge"}'; exit 1; }""")
    node.conflist({"type": "gives"}, {"type": "fails"})
    with pytest.raises(PluginFailed, match=r"CNI plugin fails failed \(ADD\): no such bridge"):
        await node.network.set_up(sandbox(netns=netns))
    await node.network.tear_down(sandbox())
    assert ["fails DEL", "gives DEL"] == node.order()[2:]
    assert f" {netns} " in (node.folder / "gives.calls").read_text().splitlines()[1]
    assert [] == node.cached()


async def test_a_hanging_plugin_is_killed(node: Node, netns: str) -> None:
    """Cancelling set_up kills the plugin and its children; the attachment stays cached until DEL has run."""
    node.plugin("hangs", '[ $CNI_COMMAND != ADD ] || { sleep 600 & echo "$$ $!" > pids.new; mv pids.new pids; wait; }')
    node.conflist({"type": "hangs"})
    work = asyncio.create_task(node.network.set_up(sandbox(netns=netns)))
    while not (node.folder / "pids").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    for pid in (node.folder / "pids").read_text().split():
        while _runs(pid):  # noqa: ASYNC110 - its parent collects it
            await asyncio.sleep(0.01)
    assert ["test-aaaaaaaa-eth0"] == node.cached()
    await node.network.tear_down(sandbox())
    assert [] == node.cached()


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_failing_del_is_tried_again(node: Node, netns: str) -> None:
    """A failed DEL is raised after all plugins were called, and tear_down can be repeated until it succeeds."""
    node.plugin("gives", GIVES)
    node.plugin("passes", PASSES + "\n[ $CNI_COMMAND != DEL ] || [ -e healed ] || { echo sorry >&2; exit 1; }")
    node.conflist({"type": "gives"}, {"type": "passes"})
    await node.network.set_up(sandbox(netns=netns))
    with pytest.raises(PluginFailed, match="sorry"):
        await node.network.tear_down(sandbox(netns=netns))
    (node.folder / "healed").touch()
    await node.network.tear_down(sandbox(netns=netns))
    assert ["passes DEL", "gives DEL"] * 2 == node.order()[2:]
    assert [] == node.cached()


async def test_del_after_the_namespace_is_gone(node: Node, tmp_path: Path) -> None:
    """Without the namespace DEL gets an empty path, and complaints of missing files are no failure."""
    node.plugin(
        "gives",
        GIVES + """\n[ $CNI_COMMAND != DEL ] || { echo '{"code": 999, "msg": "no such file or directory"}'; exit 1; }""",
    )
    node.conflist({"type": "gives"})
    with namespace(tmp_path / "short") as path:
        spec = sandbox(netns=path)
        await node.network.set_up(spec)
    await node.network.tear_down(spec)
    assert "DEL aaaaaaaa  eth0" in (node.folder / "gives.calls").read_text()
    assert [] == node.cached()


async def test_del_goes_by_the_configuration_of_add(node: Node, netns: str) -> None:
    """A configuration that is changed between ADD and DEL does not keep the old one's plugins from being called."""
    node.plugin("gives", GIVES)
    node.conflist({"type": "gives", "mark": "old"})
    await node.network.set_up(sandbox(netns=netns))
    (node.config / "10-test.conflist").unlink()
    await node.network.tear_down(sandbox())
    assert "old" == node.input_of("gives", "DEL")["mark"]


async def test_a_broken_cached_result_is_undone_by_the_current_network(node: Node, netns: str) -> None:
    """A cached result that a power cut has emptied still leads to DEL, by the current configuration."""
    node.plugin("gives", GIVES)
    node.conflist({"type": "gives"})
    await node.network.set_up(sandbox(netns=netns))
    (node.cache / "results" / "test-aaaaaaaa-eth0").write_bytes(b"")
    await node.network.tear_down(sandbox())
    assert ["gives ADD", "gives DEL"] == node.order()
    assert [] == node.cached()


async def test_ready_follows_the_folder(node: Node) -> None:
    """Ready reports a missing folder content, a missing plugin, a bad file, and finds a new file at once, without a process."""
    assert "no network configuration" in (await node.network.ready()).message
    node.conflist({"type": "gives"})
    state = await node.network.ready()
    assert (False, "NetworkPluginNotReady") == (state.ready, state.reason)
    assert "needs gives" in state.message
    node.plugin("gives", GIVES)
    assert NetworkReady(ready=True) == await node.network.ready()
    (node.config / "10-test.conflist").write_text("{")
    assert "10-test.conflist: is not JSON" in (await node.network.ready()).message
    assert [] == node.order()


async def test_status_runs_in_the_background(node: Node) -> None:
    """From 1.1.0 on STATUS runs in the background, and a later ready() reports it (CNI specification 1.1, STATUS)."""
    node.plugin("gives", """[ $CNI_COMMAND != STATUS ] || { echo '{"code": 50, "msg": "no leases"}'; exit 1; }""")
    node.conflist({"type": "gives"}, version="1.1.0")
    assert (await node.network.ready()).ready
    while (state := await node.network.ready()).ready:  # noqa: ASYNC110 - the background task has no event
        await asyncio.sleep(0.01)
    assert "no leases" in state.message
    assert ["gives STATUS"] == node.order()
    await node.network.close()


async def test_closing_ends_a_status_that_hangs(node: Node) -> None:
    """Close ends a STATUS that does not answer."""
    node.plugin("gives", "sleep 600")
    node.conflist({"type": "gives"}, version="1.1.0")
    assert (await node.network.ready()).ready
    while node.order() == []:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.01)
    await node.network.close()
    assert ["gives STATUS"] == node.order()


async def test_garbage_is_collected(node: Node, netns: str) -> None:
    """Collect undoes what no valid sandbox explains, and calls GC where the version has it and the list allows it."""
    node.plugin("gives", GIVES)
    node.conflist({"type": "gives"}, version="1.1.0")
    for name in ("a", "b"):
        await node.network.set_up(sandbox(name, netns=netns))
    await node.network.collect(["bbbbbbbb"])
    assert ["test-bbbbbbbb-eth0"] == node.cached()
    assert ["gives DEL", "gives GC"] == node.order()[2:]
    assert [{"containerID": "bbbbbbbb", "ifname": "eth0"}] == node.input_of("gives", "GC")["cni.dev/valid-attachments"]
    node.conflist({"type": "gives"}, version="1.1.0", disableGC=True)
    await node.network.collect(["bbbbbbbb"])
    assert 4 == len(node.order())


async def test_collecting_goes_on_after_a_failure(node: Node, netns: str) -> None:
    """Attachments that cannot be freed now stay cached, and nothing is raised."""
    node.plugin("gives", GIVES + "\n[ $CNI_COMMAND != DEL ] || exit 1")
    node.conflist({"type": "gives"})
    await node.network.set_up(sandbox(netns=netns))
    await node.network.collect([])
    assert ["test-aaaaaaaa-eth0"] == node.cached()


async def test_what_cannot_be_set_up(node: Node, netns: str) -> None:
    """No configuration, no plugin, a program that is none, a bad annotation, no namespace: each has its error."""
    spec = sandbox(netns=netns)
    with pytest.raises(Unavailable, match="no network configuration"):
        await node.network.set_up(spec)
    node.conflist({"type": "gives"})
    with pytest.raises(FailedPrecondition, match="CNI plugin gives is missing"):
        await node.network.set_up(spec)
    (node.programs / "gives").write_text("neither")
    (node.programs / "gives").chmod(0o755)
    with pytest.raises(Unknown, match="cannot be run"):
        await node.network.set_up(spec)
    with pytest.raises(InvalidArgument, match="egress-bandwidth"):
        await node.network.set_up(sandbox(netns=netns, annotations={"kubernetes.io/egress-bandwidth": "much"}))
    with pytest.raises(NotFound, match="namespace"):
        await node.network.set_up(attrs.evolve(spec, netns=f"{netns}.gone"))


async def test_cached_results_are_private(node: Node, netns: str) -> None:
    """The configuration of a network may have secrets of a plugin: cached results are readable by root only."""
    node.plugin("gives", GIVES)
    node.conflist({"type": "gives"})
    await node.network.set_up(sandbox(netns=netns))
    assert 0o700 == (node.cache / "results").stat().st_mode & 0o777
