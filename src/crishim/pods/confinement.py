"""How the kernel confines containers: AppArmor profiles and SELinux labels, chosen before anything is created."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from crishim.model.container import ContainerSpec
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import NamespaceMode
from crishim.oci.facts import Host, Labels
from crishim.oci.security import selinux_labels
from crishim.pods.apparmor import AppArmorProfiles
from crishim.pods.labels import label_pod, level_of, relabel, volumes_to_label
from crishim.pods.pid_namespaces import pid_options


class Confinement:
    """The confinement of the pods with folders in `pods`, on the machine that `host` describes."""

    def __init__(self, host: Host, pods: Path) -> None:
        self._host = host
        self._pods = pods
        self._apparmor = AppArmorProfiles(used=host.apparmor)

    def details(self) -> Mapping[str, str]:
        """The AppArmor and SELinux settings that containers get, for the backend's details."""
        selinux = "a level for each pod" if self._host.selinux else "this machine has no SELinux"
        return {"apparmor": self._apparmor.outlook(), "selinux": selinux}

    async def ready(self) -> None:
        """Load the default AppArmor profile if it is missing."""
        await self._apparmor.ready()

    async def choose(self, spec: ContainerSpec) -> tuple[str, Labels]:
        """A container's AppArmor profile and labels. Raises `InvalidArgument` for unknown profiles and invalid labels."""
        level = level_of(self._pods / spec.sandbox.id) if self._host.selinux else ""
        host_pid = pid_options(spec).pid is NamespaceMode.NODE
        labels = selinux_labels(spec, self._host, level, host_pid=host_pid)
        if labels.mounts:
            await asyncio.to_thread(volumes_to_label, spec, labels)
        return await self._apparmor.choose(spec), labels

    async def label_pod(self, spec: SandboxSpec) -> None:
        """Choose a pod's level and label its files. Raises as `labels.label_pod`."""
        if self._host.selinux:
            await asyncio.to_thread(label_pod, self._pods, spec)

    async def relabel(self, spec: ContainerSpec, labels: Labels, own: Iterable[str]) -> None:
        """Label the volumes with `selinux_relabel`, and the container's `own` folders. Raises as `choose` and
        `labels.relabel`.
        """
        if labels.mounts:
            paths = await asyncio.to_thread(volumes_to_label, spec, labels)
            await asyncio.to_thread(relabel, (*paths, *own), labels.mounts)
