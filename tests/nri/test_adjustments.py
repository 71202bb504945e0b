"""From NRI's messages to a container's spec."""

from typing import Any

import pytest

from crishim._proto import nri_pb2 as pb
from crishim.errors import InvalidArgument
from crishim.model.container import ContainerMetadata, ContainerSpec, Mount, MountPropagation
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.sandbox import SandboxSpec
from crishim.model.values import ContainerId, FrozenDict, ImageId, SandboxId
from crishim.nri.adjustments import adjusted
from crishim.testing.harness import sandbox_config

MOUNT = Mount(container_path="/data", host_path="/host/data")


def spec() -> ContainerSpec:
    return ContainerSpec(
        id=ContainerId("c"),
        sandbox=SandboxSpec(id=SandboxId("s"), config=sandbox_config()),
        metadata=ContainerMetadata("main"),
        image_id=ImageId("i"),
        argv=("old",),
        env=FrozenDict({"HAVE": "1"}),
        mounts=(MOUNT,),
        annotations=FrozenDict({"have": "1"}),
        cdi_devices=("v.com/c=1",),
    )


def linux(**fields: Any) -> pb.ContainerAdjustment:
    return pb.ContainerAdjustment(linux=pb.LinuxContainerAdjustment(**fields))


def resources(**fields: Any) -> pb.ContainerAdjustment:
    return linux(resources=pb.LinuxResources(**fields))


@pytest.mark.parametrize(
    ("adjustment", "name", "expected"),
    [
        (pb.ContainerAdjustment(args=["new", "x"]), "argv", ("new", "x")),
        (pb.ContainerAdjustment(env=[pb.KeyValue(key="-HAVE"), pb.KeyValue(key="A", value="b=c")]), "env", {"A": "b=c"}),
        (pb.ContainerAdjustment(annotations={"-have": "", "a": "b"}), "annotations", {"a": "b"}),
        (pb.ContainerAdjustment(CDI_devices=[pb.CDIDevice(name="v.com/c=2")]), "cdi_devices", ("v.com/c=1", "v.com/c=2")),
        (pb.ContainerAdjustment(mounts=[pb.Mount(destination="-/data")]), "mounts", ()),
        (
            pb.ContainerAdjustment(
                mounts=[pb.Mount(destination="/x", type="bind", source="/h", options=["rbind", "ro", "rslave"])]
            ),
            "mounts",
            (
                MOUNT,
                Mount(container_path="/x", host_path="/h", readonly=True, propagation=MountPropagation.HOST_TO_CONTAINER),
            ),
        ),
        (
            resources(
                memory=pb.LinuxMemory(limit=pb.OptionalInt64(value=7), swap=pb.OptionalInt64(value=8)),
                cpu=pb.LinuxCPU(
                    shares=pb.OptionalUInt64(value=1),
                    quota=pb.OptionalInt64(value=2),
                    period=pb.OptionalUInt64(value=3),
                    cpus="0-1",
                    mems="0",
                ),
                hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=9)],
                unified={"memory.high": "5"},
            ),
            "resources",
            Resources(
                memory_limit_in_bytes=7,
                memory_swap_limit_in_bytes=8,
                cpu_shares=1,
                cpu_quota=2,
                cpu_period=3,
                cpuset_cpus="0-1",
                cpuset_mems="0",
                hugepage_limits=(HugepageLimit("2MB", 9),),
                unified=FrozenDict({"memory.high": "5"}),
            ),
        ),
        (linux(oom_score_adj=pb.OptionalInt(value=-5)), "resources", Resources(oom_score_adj=-5)),
    ],
)
def test_what_the_spec_has(adjustment: pb.ContainerAdjustment, name: str, expected: object) -> None:
    """An adjustment that a field of the spec expresses is set there."""
    assert expected == getattr(adjusted(spec(), adjustment), name)


@pytest.mark.parametrize(
    ("adjustment", "expected"),
    [
        (pb.ContainerAdjustment(annotations={"-have": "", "a": "b"}), {"annotations": {"have": None, "a": "b"}}),
        (
            pb.ContainerAdjustment(mounts=[pb.Mount(destination="/t", type="tmpfs", source="tmpfs", options=["size=1m"])]),
            {"mounts": [{"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}]},
        ),
        (
            pb.ContainerAdjustment(mounts=[pb.Mount(destination="-/dev/shm")]),
            {"mounts": [{"destination": "/dev/shm", "remove": True}]},
        ),
        (
            pb.ContainerAdjustment(
                hooks=pb.Hooks(
                    create_runtime=[pb.Hook(path="/h", args=["h", "x"], env=["A=b"], timeout=pb.OptionalInt(value=3))],
                    poststop=[pb.Hook(path="/p")],
                )
            ),
            {
                "hooks": {
                    "createRuntime": [{"path": "/h", "args": ["h", "x"], "env": ["A=b"], "timeout": 3}],
                    "poststop": [{"path": "/p"}],
                }
            },
        ),
        (
            pb.ContainerAdjustment(rlimits=[pb.POSIXRlimit(type="RLIMIT_CORE", hard=2, soft=1)]),
            {"rlimits": [{"type": "RLIMIT_CORE", "hard": 2, "soft": 1}]},
        ),
        (
            linux(
                devices=[
                    pb.LinuxDevice(
                        path="/dev/x",
                        type="c",
                        major=1,
                        minor=3,
                        file_mode=pb.OptionalFileMode(value=0o600),
                        uid=pb.OptionalUInt32(value=4),
                    ),
                    pb.LinuxDevice(path="-/dev/y"),
                ]
            ),
            {
                "devices": [
                    {"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 4},
                    {"path": "/dev/y", "remove": True},
                ]
            },
        ),
        (linux(cgroups_path="/c"), {"cgroupsPath": "/c"}),
        (
            linux(namespaces=[pb.LinuxNamespace(type="-pid"), pb.LinuxNamespace(type="network", path="/n")]),
            {"namespaces": {"pid": None, "network": "/n"}},
        ),
        (linux(sysctl={"-a": "", "b": "1"}), {"sysctl": {"a": None, "b": "1"}}),
        (
            linux(net_devices={"e": pb.LinuxNetDevice(name="f"), "-g": pb.LinuxNetDevice()}),
            {"netDevices": {"e": {"name": "f"}, "g": None}},
        ),
        (
            linux(io_priority=pb.LinuxIOPriority(**{"class": pb.IOPRIO_CLASS_BE}, priority=3)),
            {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3}},
        ),
        (
            linux(
                seccomp_policy=pb.LinuxSeccomp(
                    default_action="SCMP_ACT_ERRNO",
                    default_errno=pb.OptionalUInt32(value=1),
                    architectures=["SCMP_ARCH_X86_64"],
                    syscalls=[
                        pb.LinuxSyscall(
                            names=["read"],
                            action="SCMP_ACT_ALLOW",
                            args=[pb.LinuxSeccompArg(index=0, value=1, op="SCMP_CMP_EQ")],
                        )
                    ],
                )
            ),
            {
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "defaultErrnoRet": 1,
                    "architectures": ["SCMP_ARCH_X86_64"],
                    "syscalls": [
                        {
                            "names": ["read"],
                            "action": "SCMP_ACT_ALLOW",
                            "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
                        }
                    ],
                }
            },
        ),
        (
            linux(
                scheduler=pb.LinuxScheduler(policy=pb.SCHED_DEADLINE, runtime=5, flags=[pb.SCHED_FLAG_RESET_ON_FORK]),
            ),
            {"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}},
        ),
        (
            linux(memory_policy=pb.LinuxMemoryPolicy(mode=pb.MPOL_BIND, nodes="0", flags=[pb.MPOL_F_STATIC_NODES])),
            {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}},
        ),
        (
            linux(rdt=pb.LinuxRdt(clos_id=pb.OptionalString(value="g"), schemata=pb.OptionalRepeatedString(value=["L3:0=f"]))),
            {"intelRdt": {"closID": "g", "schemata": ["L3:0=f"]}},
        ),
        (linux(rdt=pb.LinuxRdt(remove=True)), {"intelRdt": None}),
        (resources(rdt_class=pb.OptionalString(value="gold")), {"intelRdt": {"closID": "gold"}}),
        (
            resources(
                memory=pb.LinuxMemory(reservation=pb.OptionalInt64(value=3)),
                cpu=pb.LinuxCPU(realtime_period=pb.OptionalUInt64(value=4)),
                pids=pb.LinuxPids(limit=9),
                devices=[pb.LinuxDeviceCgroup(allow=True, type="c", major=pb.OptionalInt64(value=1), access="r")],
            ),
            {
                "resources": {
                    "memory": {"reservation": 3},
                    "cpu": {"realtimePeriod": 4},
                    "pids": {"limit": 9},
                    "devices": [{"allow": True, "access": "r", "type": "c", "major": 1}],
                }
            },
        ),
    ],
)
def test_what_only_config_json_has(adjustment: pb.ContainerAdjustment, expected: dict[str, Any]) -> None:
    """Everything else becomes a change of config.json in the terms of the OCI runtime specification."""
    assert expected == dict(adjusted(spec(), adjustment).oci_changes)


def test_nothing_changes_nothing() -> None:
    """An empty adjustment leaves the spec as it is."""
    assert spec() == adjusted(spec(), pb.ContainerAdjustment())


def test_a_block_io_class() -> None:
    """A block I/O class is refused by name: no file here says what it means."""
    with pytest.raises(InvalidArgument, match="blockio_class"):
        adjusted(spec(), resources(blockio_class=pb.OptionalString(value="slow")))
