"""Writes `src/crishim/cri/calls.py`: the type of the response to each request of CRI, from the table of RPCs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from crishim.cri import pb
from crishim.cri.routes import Row, Unary, routes

TARGET: Final = Path(__file__).parents[2] / "src" / "crishim" / "cri" / "calls.py"

_HEAD: Final = '''"""The type of the response to each request. Written by `make reference` from the table in `routes`."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, overload

from google.protobuf.message import Message

from crishim._proto import cri_pb2 as pb


class TypedCalls(ABC):
    """The calls of `Dispatcher` by message. The response to a request of other stubs than `pb` is typed `Any`."""
'''

_CALL: Final = '''
    @overload
    async def __call__(self, request: Message) -> Any: ...

    async def __call__(self, request: Message) -> Any:
        """The response to a request message, in the request's own stubs. For streaming RPCs use `messages`."""
        return await self._response(request)
'''

_MESSAGES: Final = '''
    @overload
    def messages(self, request: Message) -> AsyncIterator[Any]: ...

    def messages(self, request: Message) -> AsyncIterator[Any]:
        """The responses to a streaming request, in the request's own stubs."""
        return self._responses(request)

    @abstractmethod
    async def _response(self, request: Message) -> Any: ...

    @abstractmethod
    def _responses(self, request: Message) -> AsyncIterator[Any]: ...
'''


def text() -> str:
    """The whole file."""
    return _HEAD + "".join(_overloads(streaming=False)) + _CALL + "".join(_overloads(streaming=True)) + _MESSAGES


def _overloads(*, streaming: bool) -> Iterator[str]:
    for row in routes().values():
        if streaming is not isinstance(row, Unary):
            request, response = f"pb.{row.request.DESCRIPTOR.name}", f"pb.{_response(row)}"
            signature = f"def messages(self, request: {request}) -> AsyncIterator[{response}]"
            if not streaming:
                signature = f"async def __call__(self, request: {request}) -> {response}"
            yield f"\n    @overload\n    {signature}: ...\n"


def _response(row: Row) -> str:
    service = pb.DESCRIPTOR.services_by_name[row.service.rpartition(".")[2]]
    return str(service.methods_by_name[row.name].output_type.name)
