"""What a field does to the pure parts of backends."""

from pathlib import Path
from typing import Any

from crishim.backends.docker.convert import Found, Maker, container_body, sandbox_body
from crishim.backends.docker.options import EngineFacts, Options
from crishim.backends.process.session import Program
from crishim.cni.attachment import attachment
from crishim.coverage.samples import Field
from crishim.coverage.verdicts import CONTAINER, container_with, sandbox_with
from crishim.interfaces.backend import BackendContext
from crishim.model.container import ContainerSpec
from crishim.model.sandbox import DNSConfig
from crishim.model.security import NamespaceMode
from crishim.model.values import FrozenDict
from crishim.oci import cdi
from crishim.oci.facts import AppArmor, BindSource, DeviceNode, Host, Place
from crishim.oci.resources import cgroups_path
from crishim.oci.security import APPARMOR_DEFAULT, apparmor_profile, relabelled, selinux_labels
from crishim.oci.spec import config as oci_config
from crishim.oci.users import resolve_user
from crishim.pods import files
from crishim.pods.backend import OciPodBackend
from crishim.system import SystemClock

PROFILE = '{"defaultAction": "SCMP_ACT_ALLOW"}'
HOST = Host(cgroup_v2=True, apparmor=True, selinux=True, seccomp_default='{"defaultAction": "SCMP_ACT_ERRNO"}')


def on_runc(folder: Path, message: str, field: Field | None) -> Any:
    """config.json, and the pod's preparations, of a container that sets the field, or is in a sandbox that does."""
    sandbox = sandbox_with(field if message != CONTAINER else None)
    spec = container_with(field if message == CONTAINER else None, sandbox)
    config = sandbox.config
    labels = selinux_labels(spec, HOST, "s0:c1,c2")
    return (
        relabelled(spec, labels),
        oci_config(spec, HOST, _place(folder, spec)),
        spec.log_path,
        (spec.stdin, spec.stdin_once),
        attachment(sandbox),
        files.resolv_conf(config.dns_config or DNSConfig()),
        files.hosts(config.hostname, ("10.0.0.1",)),
        config.linux.sysctls,
        cdi.wanted(spec.cdi_devices, FrozenDict()),
        config.linux.security_context.privileged,
        sandbox.namespaces.pid is NamespaceMode.POD,
        sandbox.host_network,
    )


def on_processes(folder: Path, message: str, field: Field | None) -> Any:
    """The program and the streams of a container that sets the field, or is in a sandbox that does."""
    del folder
    spec = container_with(field if message == CONTAINER else None, sandbox_with(field if message != CONTAINER else None))
    program = Program(argv=spec.argv, env=spec.env, cwd=spec.cwd, tty=spec.tty)
    return program, spec.log_path, spec.stdin, spec.stdin_once


def on_docker(folder: Path, message: str, field: Field | None) -> Any:
    """The bodies of the two create calls, and what else is done by crishim's own hands."""
    del folder
    sandbox = sandbox_with(field if message != CONTAINER else None)
    spec = container_with(field if message == CONTAINER else None, sandbox)
    source = BindSource(path="/source", shared=True)
    user = resolve_user(spec.user, b"root:x:0:0::/:\ntext:x:7:7::/:\n", b"extra:x:9:root\n")
    facts = EngineFacts(api=(1, 51), cgroup_v2=True, apparmor=True, selinux=True, recursive_readonly=True)
    maker = Maker(facts=facts, host=HOST, options=Options(), owner="owner")
    found = Found(
        user=user,
        sources=FrozenDict({mount.container_path: _source(mount.image_sub_path, source) for mount in spec.mounts}),
        profiles=FrozenDict({"localhost/profile": PROFILE, "profile": PROFILE}),
    )
    return (
        sandbox_body(sandbox, "pause", maker),
        container_body(spec, maker, found),
        attachment(sandbox),
        spec.log_path,
        sandbox.config.linux.security_context.privileged,
    )


def _place(folder: Path, spec: ContainerSpec) -> Place:
    backend = OciPodBackend(object(), _context(folder), HOST)  # type: ignore[arg-type]  # nothing is run
    config = spec.sandbox.config
    source = BindSource(path="/source", shared=True)
    return Place(
        rootfs="/root",
        user=resolve_user(spec.user, b"root:x:0:0::/:\ntext:x:7:7::/:\n", b"extra:x:9:root\n"),
        namespaces=backend._namespaces(spec),
        files=files.files_of(folder / "pod", spec.sandbox),
        devices=tuple(
            DeviceNode(path=device.container_path, kind="c", major=1, minor=3, access=device.permissions)
            for device in spec.devices
        ),
        sources=FrozenDict({mount.container_path: _source(mount.image_sub_path, source) for mount in spec.mounts}),
        profiles=FrozenDict({"localhost/profile": PROFILE, "profile": PROFILE}),
        apparmor=apparmor_profile(spec, AppArmor(loaded=frozenset({APPARMOR_DEFAULT, "profile"}))),
        labels=selinux_labels(spec, HOST, "s0:c1,c2"),
        cgroups_path=cgroups_path(config.linux.cgroup_parent, spec.id, systemd=False),
    )


def _source(below: str, source: BindSource) -> BindSource:
    return BindSource(path=f"{source.path}/{below}", shared=True) if below else source


def _context(folder: Path) -> BackendContext:
    return BackendContext(state=folder, runtime_state=folder, clock=SystemClock())
