"""A CRI runtime over fakes, served on a socket by a thread of its own: for tests of clients of any kind, also those that block.

    with ServedNode() as node:
        subprocess.run(["crictl", "--runtime-endpoint", node.endpoint, "pods"], check=True)
        node.call(node.harness.backend.exits, "main", 137)

The pytest fixtures `crishim_backend`, `crishim_node` and `crishim_socket` are such a node.
"""

import asyncio
import tempfile
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from crishim.cri import Dispatcher
from crishim.server import serve
from crishim.store.memory import MemoryStore
from crishim.system import SystemClock
from crishim.testing.harness import Harness

T = TypeVar("T")


class ServedNode:
    """A `Harness` behind a socket, with the real time and with records in memory.

    `backend` is what it runs pods on, a fake by default; other arguments replace parts of the harness, as there. The harness
    belongs to the node's thread: use it by `run` and `call`.
    """

    def __init__(self, backend: Any = None, **parts: Any) -> None:
        self.harness = Harness(backend, **{"clock": SystemClock(), "store": MemoryStore(), **parts})
        self._folder = tempfile.TemporaryDirectory(prefix="crishim-")  # a socket's path has at most 107 bytes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="crishim-node", daemon=True)
        self._stack = AsyncExitStack()

    @property
    def endpoint(self) -> str:
        """The address of the socket for clients of CRI."""
        return f"unix://{self._folder.name}/cri.sock"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that is run in the node's thread. Raises what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function that is called in the node's thread. Raises what it raises."""

        async def step() -> T:
            return function(*arguments)

        return self.run(step())

    def restart(self) -> None:
        """Stop serving, and serve the same pods again: what a restart of a runtime is to its clients."""
        self.run(self._close())
        self.run(self._open())

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self._open())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.run(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._folder.cleanup()

    async def _open(self) -> None:
        await self._stack.enter_async_context(self.harness)
        await self._stack.enter_async_context(serve(Dispatcher(self.harness.services), Path(self._folder.name, "cri.sock")))

    async def _close(self) -> None:
        await self._stack.aclose()
