"""The part of the Docker Engine API that this backend uses: calls, their errors, and the API version.

The engine's 404 is `NotFound`, 400 `InvalidArgument`, 409 `Conflict` (which callers interpret), 503 `Unavailable`; everything
else is `Unknown` with the engine's own message. An engine that does not respond is `Unavailable`.

Calls that change something are serialized for each container, by `Calls`. The engine continues with a request whose client has
disconnected. So a caller that is cancelled leaves its call running, and the next call for the same container waits for it: a
removal then finds what a creation or a start has done.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from crishim.backends.docker.http import HttpClient, Pieces, Reply, TakenOver
from crishim.backends.docker.options import NEWEST, OLDEST, EngineFacts
from crishim.errors import Aborted, CrishimError, InvalidArgument, NotFound, Unavailable, Unknown

T = TypeVar("T")


class Calls:
    """The calls under way, by container."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[Any]] = {}

    async def run(self, subject: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `call`, which runs when no other call is under way for `subject`."""
        await self.settled(subject)
        task = self._under_way[subject] = asyncio.create_task(call(), name=f"call for {subject}")
        task.add_done_callback(lambda done: self._done(subject, done))
        return await asyncio.shield(task)

    async def settled(self, subject: str) -> None:
        """Return when no call is under way for `subject`."""
        while (task := self._under_way.get(subject)) is not None:
            await asyncio.wait({task})

    def _done(self, subject: str, task: "asyncio.Task[Any]") -> None:
        if self._under_way.get(subject) is task:
            del self._under_way[subject]
        if not task.cancelled():
            task.exception()  # marks the error as seen, since the caller may have been cancelled


class Conflict(Aborted):
    """The engine's 409: a name is taken, a container does not run, or it is being removed."""


class Engine:
    """One engine, by its socket."""

    def __init__(self, socket: str) -> None:
        self._http = HttpClient(socket)
        self._api: tuple[int, int] | None = None

    async def probe(self) -> EngineFacts:
        """The facts of the engine, including the API version to use. Raises `Unavailable`."""
        version = await self._json("GET", "/version")
        self._api = _agreed(version)
        return facts(version, await self.get("/info"), self._api)

    async def get(self, path: str, kind: str = "", subject: str = "", **query: Any) -> Any:
        """GET, and its response. `kind` and `subject` name the object of a 404."""
        return await self.call("GET", path, kind, subject, **query)

    async def post(self, path: str, kind: str = "", subject: str = "", body: Any = None, **query: Any) -> Any:
        """POST, and its response."""
        return await self.call("POST", path, kind, subject, encoded(body) if body is not None else b"", **query)

    async def delete(self, path: str, kind: str = "", subject: str = "", **query: Any) -> Any:
        """DELETE."""
        return await self.call("DELETE", path, kind, subject, **query)

    async def call(self, method: str, path: str, kind: str, subject: str, body: bytes | None = None, **query: Any) -> Any:
        """One call; its JSON, or None without a body."""
        target = await self._target(path, query)
        reply = await self._http.request(method, target, body)
        _check(reply, kind or "engine call", subject or path)
        return json.loads(reply.body) if reply.body else None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        kind: str = "",
        subject: str = "",
        body: bytes | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        query: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Pieces]:
        """One call whose response arrives in pieces."""
        target = await self._target(path, query or {})
        async with self._http.stream(method, target, body, headers) as pieces:
            if pieces.status >= 300:
                body = b"".join([piece async for piece in pieces])
                _check(Reply(pieces.status, body), kind or "engine call", subject or path)
            yield pieces

    async def take_over(self, path: str, kind: str, subject: str, body: Any = None, **query: Any) -> TakenOver:
        """A call that turns into a connection of streams."""
        taken = await self._http.take_over(await self._target(path, query), encoded(body or {}))
        if isinstance(taken, Reply):
            _check(taken, kind, subject)
            raise Unknown(f"the engine has not upgraded the connection: {taken.status}")
        return taken

    async def inspect(self, name: str, kind: str = "container") -> dict[str, Any]:
        """GET /containers/NAME/json. Raises `NotFound`."""
        inspected: dict[str, Any] = await self.get(f"/containers/{quote(name)}/json", kind, name)
        return inspected

    async def image(self, name: str) -> dict[str, Any]:
        """GET /images/NAME/json. Raises `NotFound`."""
        inspected: dict[str, Any] = await self.get(f"/images/{quote(name)}/json", "image", name)
        return inspected

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    async def _json(self, method: str, target: str) -> Any:
        reply = await self._http.request(method, target)
        _check(reply, "engine", target)
        return json.loads(reply.body)

    async def _target(self, path: str, query: Mapping[str, Any]) -> str:
        if self._api is None:
            self._api = _agreed(await self._json("GET", "/version"))
        encoded_query = urlencode({key: value for key, value in query.items() if value is not None})
        major, minor = self._api
        return f"/v{major}.{minor}{path}" + (f"?{encoded_query}" if encoded_query else "")


def facts(version: Mapping[str, Any], info: Mapping[str, Any], api: tuple[int, int]) -> EngineFacts:
    """The facts in the responses to GET /version and /info."""
    security = {part.partition("=")[2] for option in info.get("SecurityOptions") or () for part in option.split(",")[:1]}
    runtimes = info.get("Runtimes") or {}
    default = runtimes.get(info.get("DefaultRuntime", "")) or {}
    features = (default.get("status") or {}).get("org.opencontainers.runtime-spec.features") or "{}"
    return EngineFacts(
        version=version.get("Version") or "unknown",
        api=api,
        systemd_cgroup=info.get("CgroupDriver") == "systemd",
        cgroup_v2=info.get("CgroupVersion") == "2",
        apparmor="apparmor" in security,
        selinux="selinux" in security,
        recursive_readonly=api >= (1, 44) and "rro" in (json.loads(features).get("mountOptions") or ()),
        runtimes=frozenset(runtimes),
        root=info.get("DockerRootDir") or "/",
    )


def encoded(body: Any) -> bytes:
    """JSON for the engine. Raises `InvalidArgument` for text that is not UTF-8, which the engine would replace."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            "config", f"contains bytes that are not UTF-8, which the engine does not support: {error.object[:40]!a}"
        ) from error


def _agreed(reported: Mapping[str, Any]) -> tuple[int, int]:
    newest, oldest = _version(reported.get("ApiVersion")), _version(reported.get("MinAPIVersion"))
    if newest < OLDEST or oldest > NEWEST:
        raise Unavailable(f"the engine supports versions {oldest} to {newest} of its API; this backend {OLDEST} to {NEWEST}")
    return min(newest, NEWEST)


def _version(text: str | None) -> tuple[int, int]:
    major, _, minor = (text or "1.0").partition(".")
    return int(major), int(minor)


def _check(reply: Reply, kind: str, subject: str) -> None:
    if reply.status < 300 or reply.status == 304:  # 304: already in that state
        return
    try:
        message = str(json.loads(reply.body)["message"])
    except (ValueError, KeyError, TypeError):
        message = reply.body[:200].decode(errors="replace")
    raise refusal(reply.status, message, kind, subject)


def refusal(status: int, message: str, kind: str, subject: str) -> CrishimError:
    """The error for a response of the engine."""
    match status:
        case 400:
            return InvalidArgument(kind, message)
        case 404:
            return NotFound(kind, subject)
        case 409:
            return Conflict(message)
        case 503:
            return Unavailable(message)
    return Unknown(f"{kind} {subject}: the engine reports: {message}")
