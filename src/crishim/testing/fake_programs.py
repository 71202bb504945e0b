"""The commands of fake containers, and what they see: what follows from the specs, as a faithful backend makes it true."""

import os
from pathlib import Path
from typing import Final

from crishim.model.container import ContainerSpec, Mount
from crishim.model.resources import Resources
from crishim.model.security import (
    LinuxContainerSecurityContext,
    NamespaceMode,
    ProfileType,
)
from crishim.testing.conformance.programs import Fact, Programs

_DEFAULT_CAPABILITIES: Final = 0xA80425FB
_ALL_CAPABILITIES: Final = 0x1FFFFFFFFFF
_CAPABILITIES: Final = {"CHOWN": 0, "NET_ADMIN": 12, "SYS_ADMIN": 21}
_FILES: Final = {"/proc/uptime": "1.00 1.00\n"}


class FakePrograms(Programs):
    """The commands of `FakeBackend`, for the exam."""

    ready = ""

    def prints(self, text: str) -> tuple[str, ...]:
        return ("print", text)

    def complains(self, text: str) -> tuple[str, ...]:
        return ("complain", text)

    def fails(self, code: int) -> tuple[str, ...]:
        return ("fail", str(code))

    def sleeps(self) -> tuple[str, ...]:
        return ("sleep",)

    def stubborn(self) -> tuple[str, ...]:
        return ("stubborn",)

    def prints_variable(self, variable: str) -> tuple[str, ...] | None:
        return ("variable", variable)

    def ticks(self, text: str) -> tuple[str, ...] | None:
        return ("tick", text)

    def shows(self, fact: Fact) -> tuple[str, ...] | None:
        return ("show", fact.name)

    def reads(self, path: str) -> tuple[str, ...] | None:
        return ("read", path)

    def writes(self, path: str) -> tuple[str, ...] | None:
        return ("write", path)

    def counts(self) -> tuple[str, ...] | None:
        return ("count",)

    def prints_much(self, size: int) -> tuple[str, ...] | None:
        return ("print", "x" * size)

    def prints_later(self, first: str, later: str, code: int) -> tuple[str, ...] | None:
        return ("later", first, later, str(code))

    def leaves_a_child(self, text: str) -> tuple[str, ...] | None:
        return ("print", text)

    def serves(self, port: int, text: str) -> tuple[str, ...] | None:
        return ("serve", str(port), text)


class FakeInside:
    """What a process of a container sees. A test of the exam overrides a method, for a backend that is not faithful."""

    def fact(self, spec: ContainerSpec, fact: Fact, limits: Resources, *, tty: bool) -> str:
        """A fact, as one line."""
        match fact:
            case Fact.FOLDER:
                return spec.cwd
            case Fact.USER | Fact.GROUP | Fact.GROUPS:
                return self.ids(spec)[fact]
            case Fact.HOSTNAME:
                return spec.sandbox.config.hostname
            case Fact.NETWORK | Fact.IPC | Fact.PROCESSES:
                return self.namespace(spec, fact)
            case Fact.NO_NEW_PRIVS:
                return str(int(_security(spec).no_new_privs))
            case Fact.SECCOMP:
                profile = _security(spec).seccomp
                return "0" if profile is None or profile.profile_type is ProfileType.UNCONFINED else "2"
            case Fact.CAPABILITIES:
                return f"{self.capabilities(spec):016x}"
            case Fact.MEMORY_LIMIT:
                return str(limits.memory_limit_in_bytes or "max")
            case Fact.DESCRIPTORS:
                return "4"
            case Fact.TERMINAL:
                return "yes" if tty else "no"

    def ids(self, spec: ContainerSpec) -> dict[Fact, str]:
        """The process's user, group, and all groups."""
        user, group = spec.user.user or "0", spec.user.group or "0"
        groups = " ".join((group, *map(str, spec.user.supplemental_groups)))
        return {Fact.USER: user, Fact.GROUP: group, Fact.GROUPS: groups}

    def namespace(self, spec: ContainerSpec, fact: Fact) -> str:
        """A namespace by its inode: the node's, the pod's or the container's own."""
        options, own = spec.sandbox.namespaces, _security(spec).namespace_options
        if fact is Fact.NETWORK:
            kind, owner = "net", "" if spec.sandbox.host_network else spec.sandbox.id
        elif fact is Fact.IPC:
            kind, owner = "ipc", "" if options.ipc is NamespaceMode.NODE else spec.sandbox.id
        else:
            kind = "pid"
            owner = {NamespaceMode.POD: spec.sandbox.id, NamespaceMode.NODE: ""}.get(own.pid, spec.id)
        return f"{kind}:[{int(owner[-12:], 16)}]" if owner else os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115

    def capabilities(self, spec: ContainerSpec) -> int:
        """The effective capabilities."""
        security = _security(spec)
        if security.privileged:
            return _ALL_CAPABILITIES
        changes = security.capabilities
        effective = 0 if "ALL" in changes.drop_capabilities else _DEFAULT_CAPABILITIES
        for name in changes.drop_capabilities:
            if name != "ALL":
                effective &= ~(1 << _CAPABILITIES[name])
        for name in changes.add_capabilities:
            effective |= 1 << _CAPABILITIES[name]
        return effective

    def variable(self, spec: ContainerSpec, name: str) -> str:
        """The value of an environment variable."""
        return spec.env.get(name, "")

    def read(self, spec: ContainerSpec, path: str) -> str:
        """The content of a file. Raises `OSError`."""
        if path in _security(spec).masked_paths:
            return ""
        if path == "/etc/resolv.conf":
            return self.resolver(spec)
        if (place := self.place(spec, path)) is not None:
            return place[1].read_text()
        if path not in _FILES:
            raise FileNotFoundError(path)
        return _FILES[path]

    def resolver(self, spec: ContainerSpec) -> str:
        """The content of /etc/resolv.conf."""
        dns = spec.sandbox.config.dns_config
        if dns is None:
            return ""
        servers = "".join(f"nameserver {server}\n" for server in dns.servers)
        return f"{servers}search {' '.join(dns.searches)}\noptions {' '.join(dns.options)}\n"

    def write(self, spec: ContainerSpec, path: str) -> str:
        """Write a line to a file, and print nothing. Raises `OSError`."""
        place = self.place(spec, path)
        readonly = _security(spec).readonly_rootfs if place is None else place[0].readonly
        if readonly:
            raise PermissionError(path)
        if place is not None:
            place[1].write_text("written\n")
        return ""

    def place(self, spec: ContainerSpec, path: str) -> tuple[Mount, Path] | None:
        """The mount in which a path is, and its file on the host; None if it is in the container's own root."""
        for mount in spec.mounts:
            if path == mount.container_path:
                return mount, Path(mount.host_path)
            if path.startswith(f"{mount.container_path}/"):
                return mount, Path(mount.host_path) / path.removeprefix(f"{mount.container_path}/")
        return None


def _security(spec: ContainerSpec) -> LinuxContainerSecurityContext:
    return spec.security or LinuxContainerSecurityContext()
