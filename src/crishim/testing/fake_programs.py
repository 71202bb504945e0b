"""The commands of fake containers, and what they see: what follows from the specs, as a faithful backend makes it true."""

import functools
import os
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.linux.mounts import mount as mount_on_host
from crishim.linux.mounts import mount_of, mounts_below
from crishim.model.container import ContainerSpec, Device, Mount, MountPropagation
from crishim.model.resources import Resources
from crishim.model.security import (
    LinuxContainerSecurityContext,
    NamespaceMode,
    ProfileType,
    SupplementalGroupsPolicy,
)
from crishim.model.values import ContainerId, FrozenDict
from crishim.oci.cdi import inject
from crishim.pods.host import device_node
from crishim.pods.sources import cdi_files
from crishim.testing.conformance.programs import Fact, Programs

_DEFAULT_CAPABILITIES: Final = 0xA80425FB
_ALL_CAPABILITIES: Final = 0x1FFFFFFFFFF
_CAPABILITIES: Final = {"CHOWN": 0, "NET_ADMIN": 12, "SYS_ADMIN": 21}
_NOBODY: Final = "65534 65534"
"""The ids that a user namespace does not map (user_namespaces(7))."""

_FILES: Final = {"/proc/uptime": "1.00 1.00\n", "/etc/passwd": "root:x:0:0:root:/:/bin/sh\n"}


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

    def reads_after(self, event: str, path: str) -> tuple[str, ...] | None:
        return ("after", event, "read", path)

    def writes(self, path: str) -> tuple[str, ...] | None:
        return ("write", path)

    def opens(self, path: str) -> tuple[str, ...] | None:
        return ("open", path)

    def owner(self, path: str) -> tuple[str, ...] | None:
        return ("owner", path)

    def mounts(self, path: str) -> tuple[str, ...] | None:
        return ("mount", path)

    def exhausts(self) -> tuple[str, ...] | None:
        return ("exhaust", str(256 << 20))

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

    @functools.cached_property
    def _given(self) -> dict[ContainerId, frozenset[int]]:
        return {}

    def started(self, spec: ContainerSpec) -> None:
        """Note the host's mounts in the container's volumes: later ones are there only if they propagate."""
        sources = [mount.host_path for mount in spec.mounts if mount.host_path]
        self._given[spec.id] = frozenset(found.id for source in sources for found in mounts_below(source))

    def removed(self, container_id: ContainerId) -> None:
        """Forget a container."""
        self._given.pop(container_id, None)

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
                profile = None if _security(spec).privileged else _security(spec).seccomp
                return "0" if profile is None or profile.profile_type is ProfileType.UNCONFINED else "2"
            case Fact.CAPABILITIES:
                return f"{self.capabilities(spec):016x}"
            case Fact.MEMORY_LIMIT:
                return str(limits.memory_limit_in_bytes or "max")
            case Fact.CPU_QUOTA:
                return f"{limits.cpu_quota or 'max'} {limits.cpu_period}"
            case Fact.CPUS:
                return limits.cpuset_cpus or "0-1"
            case Fact.HUGEPAGE_LIMIT:
                return next((str(pages.limit) for pages in limits.hugepage_limits if pages.page_size == "2MB"), "max")
            case Fact.OOM_SCORE:
                return str(limits.oom_score_adj)
            case Fact.DESCRIPTORS:
                return "4"
            case Fact.TERMINAL:
                return "yes" if tty else "no"

    def ids(self, spec: ContainerSpec) -> dict[Fact, str]:
        """The process's user, group, and all groups."""
        user, group = spec.user.user or "0", spec.user.group or "0"
        strict = _security(spec).supplemental_groups_policy is SupplementalGroupsPolicy.STRICT
        groups = " ".join((group, *map(str, spec.user.supplemental_groups), *(() if strict else ("50000",))))
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
            owners = {NamespaceMode.POD: spec.sandbox.id, NamespaceMode.NODE: "", NamespaceMode.TARGET: own.target_id}
            owner = owners.get(own.pid, spec.id)
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
        return effective if spec.user.user in {"", "0"} else self.ambient_capabilities(spec)

    def ambient_capabilities(self, spec: ContainerSpec) -> int:
        """The capabilities that a program of another user than root has."""
        return sum(1 << _CAPABILITIES[name] for name in _security(spec).capabilities.add_ambient_capabilities)

    def variable(self, spec: ContainerSpec, name: str) -> str:
        """The value of an environment variable."""
        return spec.env.get(name, "")

    def read(self, spec: ContainerSpec, path: str) -> str:
        """The content of a file. Raises `OSError`."""
        security = _security(spec)
        if path in security.masked_paths and not security.privileged:
            return ""
        if path == "/etc/resolv.conf":
            return self.resolver(spec)
        if (inside := self.image_path(spec, path)) is not None:
            return self.read(spec, inside)
        if (value := self.kernel_file(spec, path)) is not None:
            return f"{value}\n"
        if (place := self.place(spec, path)) is not None:
            if self._is_apart(spec, *place):
                raise FileNotFoundError(path)
            return place[1].read_text()
        if path not in _FILES:
            raise FileNotFoundError(path)
        return _FILES[path]

    def image_path(self, spec: ContainerSpec, path: str) -> str | None:
        """The path in the image that is mounted where a path is; None if none is. All images are the container's own."""
        for mount in spec.mounts:
            if mount.image is not None and path.startswith(f"{mount.container_path}/"):
                return f"/{mount.image_sub_path}/{path.removeprefix(f'{mount.container_path}/')}".replace("//", "/")
        return None

    def kernel_file(self, spec: ContainerSpec, path: str) -> str | None:
        """The content of a file of the kernel that the spec decides; None for any other file."""
        security, options = _security(spec), spec.sandbox.namespaces.userns_options
        file = Path(path)
        if path.startswith("/proc/sys/"):
            return spec.sandbox.config.linux.sysctls.get(path.removeprefix("/proc/sys/").replace("/", "."), "0")
        if path in {"/proc/self/uid_map", "/proc/self/gid_map"} and options is not None:
            mappings = options.uids if file.name == "uid_map" else options.gids
            return "\n".join(f"{each.container_id} {each.host_id} {each.length}" for each in mappings)
        if file.parent == Path("/sys/fs/cgroup"):
            return spec.resources.unified.get(file.name, "max")
        if path == "/proc/self/mountinfo":
            return "\n".join(f"2 1 0:1 / {each.container_path} rw,{','.join(each.mount_options)}" for each in spec.mounts)
        if path == "/proc/self/attr/current":
            return self.label(security)
        return None

    def label(self, security: LinuxContainerSecurityContext) -> str:
        """The label of a process, of SELinux or of AppArmor."""
        if (option := security.selinux_options) is not None:
            return f"system_u:system_r:{option.type}:{option.level}"
        confined = security.apparmor is None or security.apparmor.profile_type is not ProfileType.UNCONFINED
        return "fake-default (enforce)" if confined else "unconfined"

    def open(self, spec: ContainerSpec, path: str) -> str:
        """Open a file for reading, and print nothing. Raises `OSError`."""
        given = any(device.container_path == path and "r" in device.permissions for device in spec.devices)
        if not given and not _security(spec).privileged:
            raise PermissionError(path)
        return ""

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
        security = _security(spec)
        readonly_path = not security.privileged and any(path.startswith(f"{below}/") for below in security.readonly_paths)
        if readonly_path or self.image_path(spec, path) is not None:
            raise PermissionError(path)
        readonly = security.readonly_rootfs if place is None else self.is_read_only(*place)
        if readonly:
            raise PermissionError(path)
        if place is not None:
            place[1].write_text("written\n")
            self.own(spec, *place)
        return ""

    def is_read_only(self, mount: Mount, file: Path) -> bool:
        """Whether a file cannot be written: in a read-only mount, or below one that is recursively so."""
        return mount.readonly and (mount.recursive_read_only or _device_of(file) == _device_of(Path(mount.host_path)))

    def owner(self, spec: ContainerSpec, path: str) -> str:
        """The ids of a file's owner and group, as a process of the container sees them. Raises `OSError`."""
        place = self.place(spec, path)
        if place is None:
            return "0 0"
        found = place[1].stat()
        return _NOBODY if self.shifts(spec, place[0]) else f"{found.st_uid} {found.st_gid}"

    def own(self, spec: ContainerSpec, mount: Mount, file: Path) -> None:
        """Give a new file to the user of the host that the container's root is."""
        options = spec.sandbox.namespaces.userns_options
        if options is not None and self.shifts(spec, mount):
            os.chown(file, options.uids[0].host_id, options.gids[0].host_id)

    def shifts(self, spec: ContainerSpec, mount: Mount) -> bool:
        """Whether ids in a mount are other ones on the host: in a user namespace, unless the mount has its mappings."""
        options = spec.sandbox.namespaces.userns_options
        return bool(options and options.uids) and not (mount.uid_mappings and mount.gid_mappings)

    def mount(self, spec: ContainerSpec, path: str) -> str:
        """Mount a file system in memory, and print nothing. Raises `OSError`."""
        place = self.place(spec, path)
        if not _security(spec).privileged:
            raise PermissionError(path)
        if place is not None and place[0].propagation is MountPropagation.BIDIRECTIONAL:
            mount_on_host("fake", place[1], "tmpfs")
        return ""

    def with_devices(self, spec: ContainerSpec) -> ContainerSpec:
        """The spec with the edits of its CDI devices. A device whose kind no file of this machine describes changes nothing.

        Raises `InvalidArgument` for any other device that cannot be resolved.
        """
        files = cdi_files() if spec.cdi_devices else ()
        names = [name for name in spec.cdi_devices if name.partition("=")[0] in {file.kind for file in files}]
        if not names:
            return spec
        process: dict[str, Any] = {"env": [], "user": {"additionalGids": []}}
        config: dict[str, Any] = {"process": process, "linux": {"resources": {"devices": []}}, "mounts": []}
        inject(config, names, files, device_node)
        mounts = tuple(Mount(container_path=one["destination"], host_path=one["source"]) for one in config["mounts"])
        devices = tuple(Device(node["path"], node["path"]) for node in config["linux"].get("devices", ()))
        env = dict(variable.split("=", 1) for variable in process["env"])
        return attrs.evolve(
            spec, env=FrozenDict({**spec.env, **env}), mounts=(*spec.mounts, *mounts), devices=(*spec.devices, *devices)
        )

    def _is_apart(self, spec: ContainerSpec, mount: Mount, file: Path) -> bool:
        """Whether a file is on a mount that the host has made later, and that does not propagate to the container."""
        on = mount_of(file, mounts_below(mount.host_path))
        later = on is not None and on.id not in self._given.get(spec.id, ())
        return later and mount.propagation is MountPropagation.PRIVATE

    def place(self, spec: ContainerSpec, path: str) -> tuple[Mount, Path] | None:
        """The mount in which a path is, and its file on the host; None if it is in the container's own root."""
        for mount in spec.mounts:
            if mount.image is not None:
                continue
            if path == mount.container_path:
                return mount, Path(mount.host_path)
            if path.startswith(f"{mount.container_path}/"):
                return mount, Path(mount.host_path) / path.removeprefix(f"{mount.container_path}/")
        return None


def _device_of(file: Path) -> int:
    """The device of a file, or of the folder in which it would be made."""
    return (file if file.exists() else file.parent).stat().st_dev


def _security(spec: ContainerSpec) -> LinuxContainerSecurityContext:
    return spec.security or LinuxContainerSecurityContext()
