"""The blobs that pulls under way download, so that pulls of images with common layers download each once."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Final

from crishim.images.manifest import Descriptor

WAITING: Final = "another pull downloads layers of the image"
"""The reason of the wait in the progress of a pull."""


class Downloads:
    """The downloads of one store. A pull waits for those of others before it claims its own, so no two wait for each other."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Event] = {}

    async def others(self, missing: Callable[[], Collection[Descriptor]], waiting: Callable[[], None]) -> None:
        """Return when no blob that is `missing` is being downloaded. `waiting` is called before each wait.

        A download that fails ends the wait as well.
        """
        while running := [self._running[item.digest] for item in missing() if item.digest in self._running]:
            waiting()
            await running[0].wait()

    @contextlib.contextmanager
    def claimed(self, blobs: Collection[Descriptor]) -> Iterator[Callable[[Descriptor], None]]:
        """Have other pulls wait for these blobs until the end of the block, or until the function is called with the blob."""
        self._running.update({blob.digest: asyncio.Event() for blob in blobs})
        try:
            yield self._ended
        finally:
            for blob in blobs:
                self._ended(blob)

    def _ended(self, blob: Descriptor) -> None:
        if (event := self._running.pop(blob.digest, None)) is not None:
            event.set()
