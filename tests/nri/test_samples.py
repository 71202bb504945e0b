"""The sample plugins of containerd/nri, unchanged, as plugins of a real node."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.cri import pb
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import FrozenDict
from crishim.play import CallError, CriClient
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, images, one_node, real_plugins

SAMPLES = Path(os.environ.get("CRISHIM_NRI_SAMPLES") or "/nonexistent")
"""A folder of the programs, by the names of their folders."""

pytestmark = [pytest.mark.node, needs(*TOOLS), real_plugins()]


def samples(*names: str) -> pytest.MarkDecorator:
    """A test that needs sample plugins."""
    missing = [name for name in names if not (SAMPLES / name).is_file()]
    return pytest.mark.skipif(
        bool(missing), reason=f"needs {', '.join(missing)}, samples of containerd/nri: CRISHIM_NRI_SAMPLES names their folder"
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@pytest.fixture
def node(image: str) -> Iterator[Node]:
    with one_node(image, number=74) as node:
        yield node


@contextmanager
def connected(node: Node, name: str, *arguments: str, script: str = "") -> Iterator[Callable[[], str]]:
    """A sample connects to the node's socket; what it has logged so far. `script` prepares a mount namespace for it."""
    log = node.place / f"{name}.log"
    with log.open("wb") as output:
        before = ["unshare", "--mount", "sh", "-e", "-c", f'{script}\nexec "$0" "$@"'] if script else []
        process = subprocess.Popen([*before, SAMPLES / name, *arguments], stdout=output, stderr=output)
    try:
        yield log.read_text
    finally:
        process.terminate()
        process.wait(30)


@asynccontextmanager
async def serving(
    node: Node, *plugins: Sequence[str], script: str = ""
) -> AsyncIterator[tuple[CriClient, list[Callable[[], str]]]]:
    """The node with these samples: each a name, the option that names the socket, and further arguments; and their logs.

    `script` is that of `connected`.
    """
    node.start()
    async with node.client() as client:
        await node.pull(client)
        await until(node.nri.exists)
        with ExitStack() as stack:
            logs = []
            for name, option, *rest in plugins:
                logs.append(stack.enter_context(connected(node, name, option, str(node.nri), *rest, script=script)))
            wanted = len(plugins) + sum(name == "differ" for name, *_ in plugins)  # which connects twice
            await until(lambda: wanted <= (node.place / "log").read_text().count(" is connected\n"))
            yield client, logs


def annotated(node: Node, annotations: Mapping[str, Any]) -> PodSandboxConfig:
    """A pod with annotations, whose values are given as JSON, which YAML includes."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in annotations.items()}
    return attrs.evolve(node.sandbox("pod"), annotations=FrozenDict(texts))


async def create(node: Node, client: CriClient, pod: str, config: PodSandboxConfig) -> str:
    """A container `main` that sleeps."""
    metadata, command = ContainerMetadata("main"), ("sh", "-c", "exec sleep 600")
    container = container_config("", metadata=metadata, image=ImageSpec(image=node.image), command=command)
    return await client.create_container(pod, container, config)


async def printed(client: CriClient, container: str, script: str) -> list[str]:
    """The lines that a script in the container prints."""
    done = await client.exec_sync(container, ("busybox", "sh", "-c", script))
    assert 0 == done.exit_code, done.stderr.decode()
    return done.stdout.decode().splitlines()


async def looked_at(node: Node, client: CriClient, annotations: Mapping[str, Any], script: str) -> list[str]:
    """What a script prints in a container of a pod with these annotations, which is removed then."""
    config = annotated(node, annotations)
    pod = await client.run_sandbox(config)
    container = await create(node, client, pod, config)
    await client.start_container(container)
    lines = await printed(client, container, script)
    await client.remove_sandbox(pod)
    return lines


def messages(log: str) -> list[str]:
    """The messages of a sample's log."""
    return [match[1].replace('\\"', '"') for match in re.finditer(r'msg="(.*)"\n', log)]


@samples("logger")
async def test_logger(node: Node) -> None:
    """It is called for each event in the order of the lifecycle, and its annotation and variable are the container's."""
    options = ("-idx", "10", "-add-env", "LOGGED", "-add-annotation", "logged")
    async with serving(node, ("logger", "-socket-path", *options)) as (client, [log]):
        config = node.sandbox("pod")
        pod = await client.run_sandbox(config)
        limits = pb.LinuxContainerResources(cpu_shares=300)
        await client.call(
            "UpdatePodSandboxResources",
            pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod, resources=limits).SerializeToString(),
            30,
        )
        container = await create(node, client, pod, config)
        await client.start_container(container)
        [variable] = await printed(client, container, "echo $LOGGED")
        await client.call(
            "UpdateContainerResources",
            pb.UpdateContainerResourcesRequest(container_id=container, linux=limits).SerializeToString(),
            30,
        )
        await client.stop_container(container, 0)
        await client.remove_container(container)
        await client.stop_sandbox(pod)
        await client.remove_sandbox(pod)
        await until(lambda: "RemovePodSandbox: pod:" in log())
        assert [
            "Synchronize",
            "RunPodSandbox",
            "UpdatePodSandbox",
            "PostUpdatePodSandbox",
            "CreateContainer",
            "ValidateContainerAdjustment",
            "PostCreateContainer",
            "StartContainer",
            "PostStartContainer",
            "UpdateContainer",
            "PostUpdateContainer",
            "StopContainer",
            "RemoveContainer",
            "StopPodSandbox",
            "RemovePodSandbox",
        ] == list(dict.fromkeys(re.findall(r"^(\w+): ", "\n".join(messages(log())), re.MULTILINE)))
        assert variable.startswith("logger-pid-")
        assert f"StartContainer:      logged: {variable}" in messages(log())


@samples("differ", "logger")
async def test_differ(node: Node) -> None:
    """Before and after another plugin it sees what that one has changed, and nothing else."""
    adding = ("logger", "-socket-path", "-idx", "10", "-add-env", "LOGGED")
    async with serving(node, ("differ", "-socket-path", "-indices", "05,99"), adding) as (client, [log, _]):
        await looked_at(node, client, {}, "true")
        await until(lambda: "RemovePodSandbox: pod:" in log())
        changes = [line for line in messages(log()) if line.startswith("[99]") and not line.endswith("<no changes>")]
        [change] = changes
        assert re.fullmatch(r"\[99\] CreateContainer: container: create: \[Env \d+\]: From: <nil> -> To: LOGGED=\S+", change)


@samples("network-logger")
async def test_network_logger(node: Node) -> None:
    """It sees the pod's network namespace and addresses, the addresses until the pod is stopped."""
    async with serving(node, ("network-logger", "-socket", "-idx", "10")) as (client, [log]):
        pod = await client.run_sandbox(node.sandbox("pod"))
        [address] = [(await client.sandbox_status(pod)).network.ip]
        await client.stop_sandbox(pod)
        await client.remove_sandbox(pod)
        await until(lambda: "Removed pod" in log())
        path = node.run / "namespaces" / pod / "net"
        assert [
            f"Started pod default/pod: namespace={path} ips=[{address}]",
            f"Stopped pod default/pod: ips=[{address}]",
            "Removed pod default/pod: ips=[]",
        ] == [line for line in messages(log()) if "default/pod" in line]


@samples("ulimit-adjuster")
async def test_ulimit_adjuster(node: Node) -> None:
    """The limits of an annotation are those of the container's processes, and an invalid annotation fails the creation."""
    async with serving(node, ("ulimit-adjuster", "-socket", "-idx", "10")) as (client, _):
        key = "ulimits.noderesource.dev/container.main"
        limits = [{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 77}, {"type": "core", "hard": 1024, "soft": 512}]
        script = "ulimit -n; ulimit -Sc; ulimit -Hc"  # of core in units of 512 bytes
        assert ["77", "1", "2"] == await looked_at(node, client, {key: limits}, script)
        with pytest.raises(CallError, match="must have hard limit >= soft limit"):
            await looked_at(node, client, {key: [{"type": "nofile", "hard": 1, "soft": 2}]}, script)


@samples("hook-injector")
async def test_hook_injector(node: Node) -> None:
    """The hooks of its folder whose conditions match a container run at their stages; those of others do not."""
    hooks = node.place / "hooks"
    hooks.mkdir()
    for name, when in (("always", {"always": True}), ("other", {"commands": ["other"]}), ("shell", {"commands": ["sh"]})):
        hook = {"path": "/bin/touch", "args": ["touch", str(node.place / f"hooked-{name}")]}
        (hooks / f"{name}.json").write_text(
            json.dumps({"version": "1.0.0", "hook": hook, "when": when, "stages": ["poststop"]})
        )
    script = f"""mount -t tmpfs tmpfs /etc/containers; mount -t tmpfs tmpfs /usr/share/containers
mkdir /etc/containers/oci; cp -r {hooks} /etc/containers/oci/hooks.d"""
    async with serving(node, ("hook-injector", "-socket-path", "-idx", "10"), script=script) as (client, _):
        await looked_at(node, client, {}, "true")
        await until((node.place / "hooked-always").exists)
        await until((node.place / "hooked-shell").exists)
    assert ["hooked-always", "hooked-shell"] == sorted(path.name for path in node.place.glob("hooked-*"))


@samples("device-injector")
async def test_device_injector(node: Node, tmp_path: Path) -> None:
    """Devices, mounts, CDI devices and sysctls of a pod's annotations are in its container."""
    (tmp_path / "file").write_text("mounted\n")
    with cdi_device("crishim.test/sample=one", {"env": ["FROM_CDI=yes"]}):
        async with serving(node, ("device-injector", "-socket-path", "-idx", "10")) as (client, _):
            annotations = {
                "devices.noderesource.dev/container.main": [{"path": "/dev/extra", "type": "c", "major": 1, "minor": 3}],
                "mounts.noderesource.dev/pod": [
                    {"source": str(tmp_path), "destination": "/mnt", "type": "bind", "options": ["bind", "ro"]}
                ],
                "cdi-devices.noderesource.dev": ["crishim.test/sample=one"],
                "sysctl.noderesource.dev": {"net.ipv4.ip_default_ttl": "42"},
            }
            script = """busybox ls -l /dev/extra | busybox cut -c1
cat /mnt/file /proc/sys/net/ipv4/ip_default_ttl; echo $FROM_CDI"""
            assert ["c", "mounted", "42", "yes"] == await looked_at(node, client, annotations, script)


@pytest.fixture
def interface() -> Iterator[Path]:
    """An interface of the machine, as a file while it is in the machine's network namespace."""
    subprocess.run(["ip", "link", "add", "crisample0", "type", "veth", "peer", "name", "crisample1"], check=True)
    yield Path("/sys/class/net/crisample0")
    # its peer has gone already if it was left in a network namespace that has ended
    subprocess.run(["ip", "link", "delete", "crisample1"], check=False, capture_output=True)


def newer_runc() -> pytest.MarkDecorator:
    """A test that needs a runc with network devices and memory policies, of the runtime specification 1.3."""
    program = shutil.which("runc") if SAMPLES.exists() else None
    command = [str(program), "features"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30) if program else None
    linux = json.loads(done.stdout).get("linux", {}) if done is not None and done.returncode == 0 else {}
    known = linux.get("netDevices", {}).get("enabled") and "memoryPolicy" in linux
    return pytest.mark.skipif(not known, reason="needs runc 1.5 or newer: put one on PATH")


@samples("device-injector")
@newer_runc()
@pytest.mark.usefixtures("interface")
@pytest.mark.parametrize(
    ("name", "value", "script", "expected"),
    [
        ("io-priority", {"class": "IOPRIO_CLASS_BE", "priority": 3}, "busybox ionice -p $pid", "best-effort: prio 3"),
        ("scheduling-policy", {"policy": "SCHED_BATCH", "nice": 5}, "busybox cut -d' ' -f19 /proc/$pid/stat", "5"),
        (
            "memory-policy",
            {"mode": "MPOL_INTERLEAVE", "nodes": "0"},
            "busybox grep -om1 interleave:0 /proc/$pid/numa_maps",
            "interleave:0",
        ),
        ("network-devices", [{"hostIf": "crisample0", "name": "net1"}], "busybox ls /sys/class/net | busybox tail -1", "net1"),
    ],
)
async def test_device_injector_of_newer_runtimes(node: Node, name: str, value: Any, script: str, expected: str) -> None:
    """What older runtimes ignore in config.json is applied as well: priorities, memory policies and network devices."""
    async with serving(node, ("device-injector", "-socket-path", "-idx", "10")) as (client, _):
        script = f"pid=$(busybox pidof sleep); {script}"
        assert [expected] == await looked_at(node, client, {f"{name}.noderesource.dev": value}, script)


@contextmanager
def cdi_device(name: str, edits: Mapping[str, Any]) -> Iterator[None]:
    """A CDI device of this machine."""
    kind, _, device = name.partition("=")
    file = Path("/var/run/cdi", f"crishim-test-{os.getpid()}.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": kind, "devices": [{"name": device, "containerEdits": edits}]}))
    try:
        yield
    finally:
        file.unlink()


@samples("network-device-injector")
async def test_network_device_injector(node: Node, interface: Path) -> None:
    """An interface of the machine is in the running pod's network namespace, and back when the pod is stopped."""
    exists = interface.exists
    async with serving(node, ("network-device-injector", "-socket", "-idx", "10")) as (client, _):
        config = annotated(node, {"netdevice.noderesource.dev": [{"name": interface.name, "new_name": "net1"}]})
        pod = await client.run_sandbox(config)
        container = await create(node, client, pod, config)
        await client.start_container(container)
        assert ["eth0", "lo", "net1"] == await printed(client, container, "busybox ls /sys/class/net")
        assert not exists()
        await client.stop_sandbox(pod)
        assert exists()
        await client.remove_sandbox(pod)


@samples("writable-cgroups")
async def test_writable_cgroups(node: Node) -> None:
    """The cgroup mount of an annotated pod's container is writable, that of another one is not."""
    (node.place / "mountinfo").write_text("1 0 0:1 / /sys/fs/cgroup rw shared:1 - cgroup2 cgroup2 rw,nsdelegate\n")
    options = ("-idx", "10", "-host-mount-file", str(node.place / "mountinfo"))
    async with serving(node, ("writable-cgroups", "-socket-path", *options)) as (client, _):
        script = r"""busybox sed -nE 's/^cgroup2? \S+ cgroup2? (r[ow]),.*/\1/p' /proc/mounts | busybox sort -u"""
        assert ["ro"] == await looked_at(node, client, {}, script)
        assert ["rw"] == await looked_at(node, client, {"writable-cgroups.noderesource.dev": "true"}, script)


def start_with(node: Node, name: str) -> None:
    """Start the server with a sample in its folder of plugins."""
    (node.place / "nri").mkdir()
    (node.place / "nri" / f"20-{name}").symlink_to(SAMPLES / name)
    node.start()


@samples("template")
async def test_template(node: Node) -> None:
    """Started with the server, it sees the events of a pod that is removed while its container runs, with the container's."""
    start_with(node, "template")
    async with node.client() as client:
        await node.pull(client)
        await looked_at(node, client, {}, "true")
        pod, container = "pod default/pod...", "container default/pod/main..."
        log = node.place / "log"
        await until(lambda: f"Removed {pod}" in log.read_text())
        assert [
            "Synchronized state with the runtime (0 pods, 0 containers)...",
            f"Started {pod}",
            *(f"{what} {container}" for what in ("Creating", "Created", "Starting", "Started", "Stopped")),
            f"Stopped {pod}",
            f"Removed {container}",
            f"Removed {pod}",
        ] == [line for line in messages(log.read_text()) if "default/pod" in line or "Synchronized" in line]


@samples("rdt")
async def test_rdt(node: Node) -> None:
    """Started with the server, it sets the class, the schemata and the monitoring of config.json."""
    start_with(node, "rdt")
    async with node.client() as client:
        await node.pull(client)
        annotations = {"closid": "gold", "schemata": "L3:0=f,MB:0=10", "enablemonitoring": "true"}
        config = annotated(node, {f"{name}.rdt.noderesource.dev/container.main": text for name, text in annotations.items()})
        pod = await client.run_sandbox(config)
        container = await create(node, client, pod, config)
        written = json.loads((node.run / "backends" / "runc" / "containers" / container / "config.json").read_text())
        expected = {"closID": "gold", "schemata": ["L3:0=f", "MB:0=10"], "enableMonitoring": True}
        assert expected == written["linux"]["intelRdt"]
        await client.remove_sandbox(pod)


@samples("v010-adapter")
async def test_v010_adapter(node: Node) -> None:
    """A plugin of NRI 0.1 is invoked for the pod and the container, with its cgroup, as they start and as they stop."""
    calls = node.place / "calls"
    plugin = node.place / "old"
    plugin.write_text(f"""#!/bin/sh
(cat; echo) >> {calls}
echo '{{"version": "0.1"}}'
""")
    plugin.chmod(0o755)
    script = f"""mount -t tmpfs tmpfs /opt; mkdir -p /opt/nri/bin; cp {plugin} /opt/nri/bin/old
mount -t tmpfs tmpfs /mnt; mkdir -p /etc/nri; mount -t tmpfs tmpfs /etc/nri
echo '{{"version": "0.1", "plugins": [{{"type": "old"}}]}}' > /etc/nri/conf.json"""
    async with serving(node, ("v010-adapter", "-socket", "-idx", "10"), script=script) as (client, _):
        config = attrs.evolve(node.sandbox("pod"), labels=FrozenDict({"team": "blue"}))
        pod = await client.run_sandbox(config)
        container = await create(node, client, pod, config)
        await client.start_container(container)
        await client.stop_container(container, 0)
        await client.remove_sandbox(pod)
        requests = [json.loads(line) for line in calls.read_text().splitlines()]
        assert [("create", pod), ("create", container), ("delete", container), ("delete", pod)] == [
            (request["state"], request["id"]) for request in requests
        ]
        cgroups = [container in request["spec"].get("cgroupsPath", "") for request in requests]
        assert [False, True, True, False] == cgroups
        assert {(pod, "blue")} == {(request["sandboxID"], request["labels"]["team"]) for request in requests}
