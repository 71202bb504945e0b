"""The two folders of a network: its configuration files, read again when they have changed, and the stored attachments."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from crishim.cni.attachment import INTERFACE
from crishim.cni.config import EXTENSIONS, NetworkList, choose
from crishim.cni.results import CachedResult, decode, encode
from crishim.errors import DataLoss


class ConfigFolder:
    """The network in a folder's files. Each call lists the folder to see whether they have changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: object = None
        self._network: NetworkList | None = None
        self._problems: tuple[str, ...] = ()

    def current(self) -> tuple[NetworkList | None, tuple[str, ...]]:
        """The network, and the errors of the files that precede it."""
        stamps = sorted(self._stamps())
        if stamps != self._seen:
            self._network, self._problems = choose((name, self._read(name)) for name, *_ in stamps)
            self._seen = stamps
        return self._network, self._problems

    def _stamps(self) -> Iterator[tuple[str, int, int, int]]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(EXTENSIONS):
                    with contextlib.suppress(OSError):
                        info = entry.stat()
                        yield entry.name, info.st_mtime_ns, info.st_size, info.st_ino

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""


class ResultCache:
    """Stored attachments, one file each, with libcni's names: `<network>-<container>-<interface>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, result: CachedResult) -> None:
        """Write one, atomically."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(result.network, result.attachment.container_id)
        temporary = path.with_name(f".{path.name}")
        temporary.write_bytes(encode(result))
        temporary.replace(path)

    def of(self, container_id: str) -> list[CachedResult | str]:
        """The stored attachments of one container; for a file that cannot be read, its name."""
        return [self._load(path) for path in sorted(self._folder.glob(f"*-{container_id}-{INTERFACE}"))]

    def containers(self, network: NetworkList) -> list[str]:
        """The containers with an attachment to this network, readable or not."""
        start, end = f"{network.name}-", f"-{INTERFACE}"
        return [path.name[len(start) : -len(end)] for path in sorted(self._folder.glob(f"{start}*{end}"))]

    def forget(self, network: NetworkList, container_id: str) -> None:
        """Delete one. Repeatable."""
        self._path(network, container_id).unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """Delete a file that cannot be read."""
        (self._folder / name).unlink(missing_ok=True)

    def _path(self, network: NetworkList, container_id: str) -> Path:
        return self._folder / f"{network.name}-{container_id}-{INTERFACE}"

    def _load(self, path: Path) -> CachedResult | str:
        try:
            return decode(path.name, path.read_bytes())
        except (DataLoss, OSError):
            return path.name
