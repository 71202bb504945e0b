"""AppArmor on this machine: the profiles loaded in the kernel, and a default profile, which is loaded if it is missing.

The default allows and denies what the default profiles of containerd, Docker and CRI-O do: a container may use files, the
network and its capabilities, and may not mount; it may signal and trace processes of the same profile, and receives signals of
runtimes and of unconfined processes; below /proc and /sys it may write the limits of shared memory and its own cgroups, and no
other setting of the kernel. Whatever is not listed is denied. The profile includes no file of the distribution, so it is the
same on every node.

If a profile of that name is loaded already, it stays: an administrator's own profile is not replaced.
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

from crishim.linux.children import children, end_program
from crishim.linux.programs import find_program
from crishim.model.container import ContainerSpec
from crishim.oci.facts import AppArmor
from crishim.oci.security import APPARMOR_DEFAULT, apparmor_profile

_log = logging.getLogger(__name__)

PARSER: Final = "apparmor_parser"
LOADED: Final = Path("/sys/kernel/security/apparmor/profiles")
_LOAD_TIMEOUT: Final = 5.0
_RETRY_PAUSE: Final = 60.0
"""Seconds: the parser's timeout, and the pause between two attempts to load the default; inventory and creations wait for it.
"""
_ABSENT: Final = "this machine has no AppArmor"

_PROFILE: Final = f"""\
profile {APPARMOR_DEFAULT} flags=(attach_disconnected, mediate_deleted) {{
  file,
  network,
  capability,
  umount,
  deny mount,

  signal (send, receive) peer={APPARMOR_DEFAULT},
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  ptrace (trace, tracedby, read, readby) peer={APPARMOR_DEFAULT},

  # Below /proc a container writes what belongs to processes, and shared memory's settings.
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]*{{,/**}} w,
  deny /proc/sys/k[^e]*{{,/**}} w,
  deny /proc/sys/kernel/[^s]*{{,/**}} w,
  deny /proc/sys/kernel/s[^h]*{{,/**}} w,
  deny /proc/sys/kernel/sh[^m]*{{,/**}} w,
  deny /proc/{{kcore,kmem,mem,sysrq-trigger}} rwklx,

  # Below /sys it writes its own cgroups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/{{firmware,devices/virtual/powercap,kernel/security}}/** rwklx,
}}
"""


def loaded_profiles(path: Path = LOADED) -> frozenset[str]:
    """The names in the kernel's list of profiles. Raises `OSError` if it cannot be read."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return frozenset(line.rpartition(" (")[0] for line in lines)


class AppArmorProfiles:
    """Chooses the profiles of containers. `used`: whether they get profiles at all; `loaded`: the kernel's list of profiles."""

    def __init__(self, *, used: bool, loaded: Path = LOADED, parser: str = PARSER) -> None:
        self._used = used
        self._loaded = loaded
        self._parser = parser
        self._loading = asyncio.Lock()
        self._problem = ""
        self._failed_at = 0.0

    def outlook(self) -> str:
        """What a container that names no profile gets: the name of the default, or the reason why none. Loads nothing."""
        if not self._used:
            return _ABSENT
        loaded, problem = self._read()
        if problem or APPARMOR_DEFAULT in loaded or find_program(self._parser):
            return problem or APPARMOR_DEFAULT
        return f"{APPARMOR_DEFAULT} is not loaded, and there is no {self._parser} (apparmor)"

    async def ready(self) -> AppArmor:
        """The profiles of the kernel; the default is loaded first if it is missing."""
        if not self._used:
            return AppArmor(problem=_ABSENT)
        async with self._loading:
            loaded, problem = await asyncio.to_thread(self._read)
            if not problem and APPARMOR_DEFAULT not in loaded:
                now = asyncio.get_running_loop().time()
                if self._problem and now < self._failed_at + _RETRY_PAUSE:
                    return AppArmor(loaded=loaded, problem=self._problem)
                problem, self._failed_at = await self._load(), now
                if not problem:
                    loaded, problem = await asyncio.to_thread(self._read)
                elif problem != self._problem:  # retried later, logged once
                    _log.warning("containers that name no AppArmor profile get none: %s", problem)
            self._problem = problem
            return AppArmor(loaded=loaded, problem=problem)

    async def choose(self, spec: ContainerSpec) -> str:
        """The name of a container's profile; empty for none. Raises `InvalidArgument` as `apparmor_profile` does."""
        return apparmor_profile(spec, await self.ready())

    def _read(self) -> tuple[frozenset[str], str]:
        """The names in the kernel's list, and the reason if it cannot be read (else empty)."""
        try:
            return loaded_profiles(self._loaded), ""
        except OSError as error:
            return frozenset(), f"{self._loaded}: {error.strerror}"

    async def _load(self) -> str:
        """Load the default profile with apparmor_parser. Returns the reason of a failure, else an empty string."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await children.start(self._parser, "-Kr", stdin=pipe, stdout=asyncio.subprocess.DEVNULL, stderr=pipe)
        except OSError as error:
            return f"{self._parser} (apparmor): {error.strerror}"
        try:
            async with asyncio.timeout(_LOAD_TIMEOUT):
                _, complaint = await process.communicate(_PROFILE.encode())
        except TimeoutError:
            return f"{self._parser} takes more than {_LOAD_TIMEOUT:g} s"
        finally:
            await end_program(process)
        said = complaint.decode("utf-8", "replace").strip()
        return f"{self._parser} ended with {process.returncode}: {said[:500]}" if process.returncode else ""
