"""The pause image, and the files of images.

The pause image is built from catatonit, a static program of one file, so that nothing is pulled for it. The files of an image
are read through a container that is never started: its users, and whole copies for image volumes.
"""

import asyncio
import contextlib
import io
import posixpath
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Final

import attrs

from crishim.backends.docker.convert import Maker, helper_body
from crishim.backends.docker.engine import Engine
from crishim.backends.docker.options import Options
from crishim.errors import CrishimError, FailedPrecondition, NotFound, PullError, PullReason, ResourceExhausted, Unknown
from crishim.linux.children import children, end_program
from crishim.linux.programs import find_program
from crishim.model.values import ImageId

PROGRAM: Final = "catatonit"
IMAGE: Final = "localhost/crishim/pause:1"

_ENTRYPOINT: Final = 'ENTRYPOINT ["/catatonit","-P"]'


class PauseImage:
    """The image of every pod's pause container: the configured one, or the one that is built here."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine = engine
        self.name = options.pause_image or IMAGE
        self._own = not options.pause_image
        self._making = asyncio.Lock()

    async def make(self) -> None:
        """Build the image, unless it exists. Raises `FailedPrecondition` if that is impossible."""
        async with self._making:
            try:
                await self._engine.image(self.name)
            except NotFound:
                if not self._own:
                    raise FailedPrecondition("missing", "here", f"the pause image {self.name}") from None
            else:
                return
            if not (program := find_program(PROGRAM)):
                raise FailedPrecondition("missing", "installed", f"{PROGRAM}, from which the pause image is built")
            repository, _, tag = self.name.rpartition(":")
            query = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": _ENTRYPOINT}
            packed = await asyncio.to_thread(_packed, Path(program))
            kind = (("Content-Type", "application/x-tar"),)
            async with self._engine.stream("POST", "/images/create", "image", self.name, packed, kind, query) as pieces:
                output = b"".join([piece async for piece in pieces])
            await self._check(output)

    async def _check(self, output: bytes) -> None:
        try:
            await self._engine.image(self.name)
        except NotFound:
            raise Unknown(f"the pause image could not be built: {output[-200:].decode(errors='replace')}") from None


def _packed(program: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(PROGRAM)
        content = program.read_bytes()
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


_LINKS: Final = 5
_KEPT: Final = 256
_MOST: Final = 1 << 20
_HEADS: Final = 1 << 16
"""The bytes that are read of a file, and of what precedes it in an archive."""


@attrs.frozen
class UserFiles:
    """An image's /etc/passwd and /etc/group; empty where it has none."""

    passwd: bytes
    group: bytes


class ImageFiles:
    """Reads the files of images; the users found are cached, since the content of an id never changes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._users: dict[ImageId, asyncio.Task[UserFiles]] = {}

    async def users(self, image_id: ImageId, maker: Maker) -> UserFiles:
        """The image's users and groups. Raises `NotFound` for an unknown image."""
        task = self._users.get(image_id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            if len(self._users) >= _KEPT:
                self._users.pop(next(iter(self._users)))
            task = self._users[image_id] = asyncio.create_task(self._read_users(image_id, maker))
        return await asyncio.shield(task)

    async def unpack(self, image_id: str, target: Path, maker: Maker) -> None:
        """Copy all files of an image into the new folder `target`. Raises `PullError` with the kubelet's reason."""
        try:
            async with self._helper(image_id, maker) as helper:
                await self._export(helper, target)
        except NotFound as error:
            raise PullError(PullReason.IMAGE_VOLUME_MOUNT_FAILED, f"image {image_id!r} is not present") from error

    async def _read_users(self, image_id: ImageId, maker: Maker) -> UserFiles:
        async with self._helper(image_id, maker) as helper:
            return UserFiles(await self._file(helper, "/etc/passwd"), await self._file(helper, "/etc/group"))

    async def _file(self, helper: str, path: str) -> bytes:
        """At most 1 MiB of a file."""
        for _ in range(_LINKS):
            try:
                packed = await self._archive(helper, path)
            except NotFound:
                return b""
            with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
                entry = tar.next()
                file = tar.extractfile(entry) if entry is not None and entry.isreg() else None
                if file is not None:
                    return file.read(_MOST)
                if entry is None or not entry.issym():
                    return b""
                path = posixpath.join(posixpath.dirname(path), entry.linkname)
        return b""

    async def _archive(self, helper: str, path: str) -> bytes:
        """The beginning of a path's archive, which may be of any size: an image may have anything there."""
        packed = b""
        async with self._engine.stream("GET", f"/containers/{helper}/archive", "file", path, query={"path": path}) as pieces:
            async for piece in pieces:
                packed += piece
                if len(packed) > _MOST + _HEADS:
                    break
        return packed

    async def _export(self, helper: str, target: Path) -> None:
        """Unpack with GNU tar, which creates links last, so that nothing is written through one."""
        await asyncio.to_thread(target.mkdir, parents=True)
        with tempfile.TemporaryFile() as output:  # a pipe could be filled by tar's messages
            await self._unpack_into(helper, target, output)

    async def _unpack_into(self, helper: str, target: Path, output: IO[bytes]) -> None:
        tar = await children.start(
            *("tar", "--extract", "--numeric-owner", "--same-owner", "--same-permissions", f"--directory={target}"),
            stdin=asyncio.subprocess.PIPE,
            stderr=output,
        )
        assert tar.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                async with self._engine.stream("GET", f"/containers/{helper}/export", "container", helper) as pieces:
                    async for piece in pieces:
                        tar.stdin.write(piece)
                        await tar.stdin.drain()
            tar.stdin.close()
            await tar.wait()
        except BaseException:
            await end_program(tar)
            await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
            raise
        if tar.returncode:
            await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
            output.seek(0)
            raise ResourceExhausted(f"an image cannot be unpacked: {output.read()[-200:].decode(errors='replace')}")

    @contextlib.asynccontextmanager
    async def _helper(self, image_id: str, maker: Maker) -> AsyncIterator[str]:
        name = f"crishim-look-{uuid.uuid4().hex}"
        await self._engine.post("/containers/create", "image", image_id, helper_body(image_id, maker), name=name)
        try:
            yield name
        finally:
            with contextlib.suppress(CrishimError):  # the next inventory removes it
                await self._engine.delete(f"/containers/{name}", "container", name, force=1, v=1)
