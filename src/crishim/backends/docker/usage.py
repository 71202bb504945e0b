"""Usage of containers and pods, read from the cgroups of the engine's runtime, without calls of the engine."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from crishim.backends.docker.convert import cgroups_path
from crishim.backends.docker.observed import Known
from crishim.backends.docker.options import EngineFacts
from crishim.errors import InvalidArgument, NotFound
from crishim.interfaces.seats import Clock
from crishim.linux.cgroups import ROOT, Cgroups, folder_of, slice_folder
from crishim.model.stats import CgroupUsage, ContainerUsage, SandboxUsage
from crishim.oci.usage import container_usage, sandbox_usage, sum_usage
from crishim.pods.host import cgroup_v2
from crishim.pods.usage import Counted, Counts, cgroup_usage, count, network_usage


class Usages:
    """Usage of all containers."""

    def __init__(self, clock: Clock, cgroups: Cgroups | None = None) -> None:
        self._clock = clock
        self._cgroups = cgroups or Cgroups(v2=cgroup_v2())
        self._counts: Counts[Counted] = Counts(clock)

    async def container(self, container_id: str, known: Known, facts: EngineFacts) -> ContainerUsage:
        """The usage of one container. For an exited one only its writable layer."""
        now, folder, upper = self._clock.now(), folder_for(known, facts), known.upper or ""
        used = await asyncio.to_thread(cgroup_usage, self._cgroups, folder)
        counted = await self._counts.get(container_id, lambda: count(self._cgroups, folder, upper, now)) or Counted()
        measured = container_usage(used, now)
        return attrs.evolve(measured, writable_layer=counted.layer, metrics=(*measured.metrics, *counted.metrics))

    async def sandbox(self, pod: Known, members: Iterable[Known], facts: EngineFacts) -> SandboxUsage:
        """The usage of a pod: its own cgroup's if it has one, else the sum of its containers and its pause container."""
        return await asyncio.to_thread(self._sandbox, pod, list(members), facts)

    def forget(self, container_id: str) -> None:
        """Forget a removed container."""
        self._counts.forget(container_id)

    def _sandbox(self, pod: Known, members: list[Known], facts: EngineFacts) -> SandboxUsage:
        now = self._clock.now()
        usage = sandbox_usage(self._pod_usage(pod, members, facts), now)
        if not pod.netns:
            return usage
        try:
            network, samples = network_usage(pod.netns, now)
        except NotFound:  # the pause has ended
            return usage
        return attrs.evolve(usage, network=network, metrics=samples)

    def _pod_usage(self, pod: Known, members: list[Known], facts: EngineFacts) -> CgroupUsage:
        own = pod.parent not in SHARED_PARENTS
        folder = slice_folder(pod.parent) if facts.systemd_cgroup else folder_of(pod.parent)
        if own and self._cgroups.exists(folder):
            return cgroup_usage(self._cgroups, folder)
        return sum_usage(cgroup_usage(self._cgroups, folder_for(known, facts)) for known in (pod, *members))


SHARED_PARENTS = frozenset({"", "/crishim", "system.slice"})
"""Cgroup parents that are shared by pods without a parent of their own."""


def folder_for(known: Known, facts: EngineFacts) -> str:
    """A container's cgroup below the cgroup root."""
    return folder_of(cgroups_path(known.parent, known.engine_id, facts))


def write_unified(known: Known, unified: Mapping[str, str], facts: EngineFacts, root: Path = ROOT) -> None:
    """Write cgroup v2 files by name, for which the engine has no parameter. Raises `InvalidArgument` naming the file."""
    for name, value in unified.items():
        field = f"config.linux.resources.unified[{name}]"
        if "/" in name or name.startswith("."):
            raise InvalidArgument(field, "is not the name of a cgroup file")
        try:
            (root / folder_for(known, facts).lstrip("/") / name).write_text(value, encoding="ascii")
        except (OSError, UnicodeEncodeError) as error:
            raise InvalidArgument(field, str(error)) from error
