"""Plays recorded calls against a runtime, and reports what differs.

The calls are made one after the other, as they were recorded. Ids of sandboxes and containers that the runtime gives take the
place of the recorded ones. Compared are the codes, and of statuses what does not depend on the machine or the time: the states,
exit codes, reasons, names, labels and annotations. Calls that open streams (Exec, Attach, PortForward) and lists are compared
by their codes alone; GetContainerEvents, and calls that the recorded client gave up, are left out.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import attrs
from google.protobuf import json_format

from crishim.errors import Code
from crishim.play.client import Caller, CallError
from crishim.recording.lines import METHODS, parse_line, to_request

_LEFT_OUT: Final = frozenset({"GetContainerEvents", "CheckpointContainer", "CheckpointPod", "RestorePod"})
_COMPARED: Final = frozenset({"state", "exit_code", "reason", "metadata", "labels", "annotations", "stop_signal", "conditions"})
_STATUSES: Final = frozenset({"PodSandboxStatus", "ContainerStatus", "ExecSync"})
_SETTLE: Final = 5.0
"""Seconds for a status to become as recorded: the client of then had waited, too."""

_PAUSE: Final = 0.05


@attrs.frozen
class Difference:
    """What differs in one call: its number in the recording (from 1), its method, and the values then and now."""

    number: int
    method: str
    what: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        return f"{self.number} {self.method}: {self.what}: recorded {self.recorded}, now {self.replayed}"


async def replay(lines: Iterable[str], call: Caller) -> AsyncIterator[Difference]:
    """Play the lines of a recording. Raises `ValueError`, with its number, for a line that is none."""
    player = _Player(call)
    for number, text in enumerate(lines, 1):
        try:
            line = parse_line(text)
            if line is None:
                continue
            request = to_request(player.renamed(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if (
            line["method"] in _LEFT_OUT
            or METHODS[line["method"]].streams
            or line.get("code") in {"CANCELLED", "DEADLINE_EXCEEDED"}
        ):
            continue
        for what, recorded, replayed in await player.play(line, request):
            yield Difference(number, line["method"], what, recorded, replayed)


class _Player:
    """Makes the calls, and knows which new id has taken the place of which recorded one."""

    def __init__(self, call: Caller) -> None:
        self._call = call
        self._ids: dict[str, str] = {}

    def renamed(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """A line with the new ids in its request."""
        text = json.dumps(line["request"])
        for old, new in self._ids.items():
            text = text.replace(old, new)
        return {**line, "request": json.loads(text)}

    async def play(self, line: Mapping[str, Any], request: bytes) -> list[tuple[str, str, str]]:
        """Make one call; what differs. A status has some time to become as recorded."""
        method = line["method"]
        until = asyncio.get_running_loop().time() + (_SETTLE if method in _STATUSES else 0)
        while True:
            code, reply = await self._once(method, request)
            if line["code"] != code.name:
                found = [("code", line["code"], code.name)]
            else:
                self._learn(line.get("reply") or {}, reply)
                found = list(_differences(line.get("reply") or {}, reply)) if method in _STATUSES else []
            if not found or asyncio.get_running_loop().time() >= until:
                return found
            await asyncio.sleep(_PAUSE)

    async def _once(self, method: str, request: bytes) -> tuple[Code, dict[str, Any]]:
        try:
            data = await self._call(method, request, None)
        except CallError as error:
            return error.code, {}
        message = METHODS[method].reply.FromString(data)
        return Code.OK, json_format.MessageToDict(message, preserving_proto_field_name=True)

    def _learn(self, recorded: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        for name in ("pod_sandbox_id", "container_id", "image_ref"):
            old, new = recorded.get(name), reply.get(name)
            if old and new:
                self._ids[old] = new


def _differences(recorded: Any, replayed: Any, path: str = "") -> Iterable[tuple[str, str, str]]:
    """The compared fields that differ, anywhere in two replies."""
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        for name in sorted(recorded.keys() | replayed.keys()):
            inner = f"{path}.{name}" if path else name
            old, new = recorded.get(name), replayed.get(name)
            if name in _COMPARED:
                if old != new:
                    yield inner, json.dumps(old), json.dumps(new)
            elif name != "containers_statuses":
                yield from _differences(old, new, inner)
