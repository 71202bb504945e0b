"""The pause image: made here from catatonit, a static program of one file, so that nothing is pulled for it."""

import asyncio
import io
import shutil
import tarfile
from pathlib import Path
from typing import Final

from crishim.backends.docker.engine import Engine
from crishim.backends.docker.options import Options
from crishim.errors import FailedPrecondition, NotFound, Unknown

PROGRAM: Final = "catatonit"
IMAGE: Final = "localhost/crishim/pause:1"

_ENTRYPOINT: Final = 'ENTRYPOINT ["/catatonit","-P"]'


class PauseImage:
    """The image of every pod's first container: the configured one, or the one that is made."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine = engine
        self.name = options.pause_image or IMAGE
        self._own = not options.pause_image
        self._making = asyncio.Lock()

    async def make(self) -> None:
        """Make it, unless it is there. Raises `FailedPrecondition` where it cannot be had."""
        async with self._making:
            try:
                await self._engine.image(self.name)
            except NotFound:
                if not self._own:
                    raise FailedPrecondition("missing", "here", f"the pause image {self.name}") from None
            else:
                return
            program = shutil.which(PROGRAM)
            if program is None:
                raise FailedPrecondition("missing", "installed", f"{PROGRAM}, of which the pause image is made")
            repository, _, tag = self.name.rpartition(":")
            query = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": _ENTRYPOINT}
            packed = await asyncio.to_thread(_packed, Path(program))
            kind = (("Content-Type", "application/x-tar"),)
            async with self._engine.stream("POST", "/images/create", "image", self.name, packed, kind, query) as pieces:
                said = b"".join([piece async for piece in pieces])
            await self._check(said)

    async def _check(self, said: bytes) -> None:
        try:
            await self._engine.image(self.name)
        except NotFound:
            raise Unknown(f"the pause image could not be made: {said[-200:].decode(errors='replace')}") from None


def _packed(program: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(PROGRAM)
        content = program.read_bytes()
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
