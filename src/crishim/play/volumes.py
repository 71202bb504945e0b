"""The kubelet's files of a pod: volumes, /etc/hosts, folders of logs, files of termination messages.

All calls but `remove` block for a few small files. Volumes in memory are mounted, which needs root; a path in a volume is a
symbolic link, which runtimes must follow (critest requires it).
"""

import contextlib
import os
import shutil
import subprocess
from collections import deque
from pathlib import Path
from typing import Final

from crishim.errors import DataLoss, FailedPrecondition, InvalidArgument, PermissionDenied
from crishim.linux.mounts import mounts_below, unmount_below
from crishim.linux.programs import find_program
from crishim.logs.lines import parse
from crishim.play.configs import Node, log_folder, pod_facts, pod_folder, sub_path, volume_path
from crishim.play.pod import Pod, PodContainer, Volume, VolumeKind

_HOSTS: Final = """\
# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
_HOST_NETWORK_HOSTS: Final = "# Kubernetes-managed hosts file (host network).\n"
_MESSAGE_BYTES: Final = 4096
_LOG_MESSAGE_BYTES: Final = 2048
_LOG_MESSAGE_LINES: Final = 80
_TESTS: Final = {
    "Directory": Path.is_dir,
    "File": Path.is_file,
    "Socket": Path.is_socket,
    "CharDevice": Path.is_char_device,
    "BlockDevice": Path.is_block_device,
}


def hosts_file(hostname: str, ips: tuple[str, ...], aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()) -> str:
    """/etc/hosts of a pod with a network of its own."""
    text = _HOSTS + "".join(f"{ip}\t{hostname}\n" for ip in ips)
    return text + _alias_lines(aliases)


def _alias_lines(aliases: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    lines = ["\t".join((ip, *names)) + "\n" for ip, names in aliases]
    return "\n# Entries added by HostAliases.\n" + "".join(lines) if lines else ""


class PodFolders:
    """The folders of one pod on one node. Raises `InvalidArgument` for a host path that is not as the manifest requires,
    `PermissionDenied` for missing permissions.
    """

    def __init__(self, pod: Pod, node: Node) -> None:
        self._pod = pod
        self._node = node
        self._root = Path(pod_folder(pod, node))
        self._logs = Path(log_folder(pod, node))

    def make(self) -> None:
        """Create the folders and volumes that the sandbox and all containers share."""
        try:
            self._root.mkdir(
                parents=True, exist_ok=True, mode=0o750
            )  # it contains Secrets, which any user of a container can read
            self._logs.mkdir(parents=True, exist_ok=True)
            for volume in self._pod.volumes:
                self._make(volume)
        except PermissionError as error:
            raise PermissionDenied(str(error)) from error

    def complete(self, ips: tuple[str, ...]) -> None:
        """Write the files that need the running sandbox: /etc/hosts and downward files."""
        pod, facts = self._pod, pod_facts(self._pod, self._node, ips)
        if pod.host_network:
            hosts = _HOST_NETWORK_HOSTS + Path("/etc/hosts").read_text(encoding="utf-8") + _alias_lines(pod.host_aliases)
        else:
            hosts = hosts_file(pod.hostname, facts.ips, pod.host_aliases)
        (self._root / "etc-hosts").write_text(hosts, encoding="utf-8")
        for volume in pod.volumes:
            for path, field in volume.files:
                file = self._inside(Path(volume_path(pod, volume, self._node)), path, volume.path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(facts.field(field, volume.path), encoding="utf-8")

    def container(self, one: PodContainer, token: str) -> None:
        """Create what one start of a container needs: its log folder, its message file, its paths in volumes."""
        (self._logs / one.name).mkdir(parents=True, exist_ok=True)
        message = self.message(one, token)
        message.parent.mkdir(parents=True, exist_ok=True)
        message.touch()
        message.chmod(0o666)
        volumes = {volume.name: volume for volume in self._pod.volumes}
        for number, mount in enumerate(one.mounts):
            if mount.sub_path:
                below = Path(volume_path(self._pod, volumes[mount.volume], self._node))
                target = self._inside(below, mount.sub_path, f"{one.path}.volumeMounts[{number}].subPath")
                if not target.exists():
                    target.mkdir(parents=True)
                link = Path(sub_path(self._pod, one, self._node, number))
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(target)

    def message(self, one: PodContainer, token: str) -> Path:
        """The file of a container start's termination message."""
        return self._root / "containers" / one.name / token

    def termination_message(self, one: PodContainer, token: str, log: str, *, failed: bool) -> str:
        """The termination message, or for a failed container the end of the log if the manifest requests that."""
        with contextlib.suppress(OSError):
            if text := self.message(one, token).read_bytes()[:_MESSAGE_BYTES].decode(errors="replace"):
                return text
        return _end_of(Path(log)) if failed and one.message_from_log and log else ""

    def remove(self) -> None:
        """Remove everything of the pod, also its logs; never the content of a hostPath."""
        # A container may have mounted anything in a volume with bidirectional propagation, which must not be deleted.
        unmount_below(self._root)
        if not mounts_below(self._root):
            shutil.rmtree(self._root, ignore_errors=True)
        shutil.rmtree(self._logs, ignore_errors=True)

    def _make(self, volume: Volume) -> None:
        path = Path(volume_path(self._pod, volume, self._node))
        if volume.kind is VolumeKind.HOST_PATH:
            _check_host_path(path, volume)
            return
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        if volume.memory:
            self._mount_memory(path, volume)
        for name, content, mode in volume.contents:
            self._write(self._inside(path, name, volume.path), content, mode)
        if (group := self._pod.security.fs_group) is not None:
            os.chown(path, -1, group)
            path.chmod(0o2777)

    def _write(self, file: Path, content: bytes, mode: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if (group := self._pod.security.fs_group) is not None:
            os.chown(file, -1, group)
            mode |= 0o440
        file.chmod(mode)

    def _mount_memory(self, path: Path, volume: Volume) -> None:
        options = ["-o", f"size={volume.size},mode=777" if volume.size else "mode=777"]
        if not (program := find_program("mount")):
            raise FailedPrecondition("missing", "installed", "the program mount (Debian: mount)")
        done = subprocess.run([program, "-t", "tmpfs", *options, "tmpfs", str(path)], check=False, capture_output=True)
        if done.returncode:
            raise PermissionDenied(f"{volume.path}.medium: {done.stderr.decode(errors='replace').strip()}")

    def _inside(self, folder: Path, path: str, field: str) -> Path:
        target = (folder / path).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise InvalidArgument(field, f"{path!r} is outside of its volume")
        return target


def _check_host_path(path: Path, volume: Volume) -> None:
    if volume.host_type == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif volume.host_type == "FileOrCreate":
        path.touch(mode=0o644)
    elif volume.host_type and not _TESTS[volume.host_type](path):
        raise InvalidArgument(f"{volume.path}.type", f"{path} is not a {volume.host_type}")


def _end_of(log: Path) -> str:
    """The last lines of a log, up to the size of a termination message."""
    lines: deque[str] = deque(maxlen=_LOG_MESSAGE_LINES)
    with contextlib.suppress(OSError, DataLoss), log.open("rb") as file:
        for raw in file:
            line = parse(raw)
            lines.append(line.content.decode(errors="replace") + ("" if line.partial else "\n"))
    return "".join(lines)[-_LOG_MESSAGE_BYTES:]
