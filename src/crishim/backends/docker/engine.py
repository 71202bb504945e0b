"""The Docker Engine API, as far as this backend needs it: calls, their errors, and the version that both sides speak.

Errors: what the engine calls 404 is `NotFound`, 400 `InvalidArgument`, 409 `Conflict` (which callers tell apart by what they
asked), 503 `Unavailable`; everything else is `Unknown` with the engine's own message. An engine that does not answer is
`Unavailable`.

Calls that change something are made one at a time for each container.

The engine goes on with a request whose client has left. So a caller that is cancelled leaves its call running, and the next
call for the same container waits for it: a removal then finds whatever a creation or a start has made.
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
    """What is under way, by container."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[Any]] = {}

    async def run(self, subject: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `call` gives or raises, once nothing else is under way for `subject`."""
        await self.settled(subject)
        task = self._under_way[subject] = asyncio.create_task(call(), name=f"call for {subject}")
        task.add_done_callback(lambda done: self._done(subject, done))
        return await asyncio.shield(task)

    async def settled(self, subject: str) -> None:
        """Return when nothing is under way for `subject`."""
        while (task := self._under_way.get(subject)) is not None:
            await asyncio.wait({task})

    def _done(self, subject: str, task: "asyncio.Task[Any]") -> None:
        if self._under_way.get(subject) is task:
            del self._under_way[subject]
        if not task.cancelled():
            task.exception()  # whoever called may have left


class Conflict(Aborted):
    """The engine's 409: a name is taken, something does not run, or is being removed just now."""


class Engine:
    """One engine, behind its socket."""

    def __init__(self, socket: str) -> None:
        self._http = HttpClient(socket)
        self._api: tuple[int, int] | None = None

    async def probe(self) -> EngineFacts:
        """Who is there, and in which version of the API to speak. Raises `Unavailable`."""
        told = await self._json("GET", "/version")
        self._api = _agreed(told)
        return facts(told, await self.get("/info"), self._api)

    async def get(self, path: str, kind: str = "", subject: str = "", **query: Any) -> Any:
        """GET, and what it answers. `kind` and `subject` name what a 404 has not found."""
        return await self.call("GET", path, kind, subject, **query)

    async def post(self, path: str, kind: str = "", subject: str = "", body: Any = None, **query: Any) -> Any:
        """POST, and what it answers."""
        return await self.call("POST", path, kind, subject, encoded(body) if body is not None else b"", **query)

    async def delete(self, path: str, kind: str = "", subject: str = "", **query: Any) -> Any:
        """DELETE."""
        return await self.call("DELETE", path, kind, subject, **query)

    async def call(self, method: str, path: str, kind: str, subject: str, body: bytes | None = None, **query: Any) -> Any:
        """One call; its JSON, or None where there is no body."""
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
        """One call whose answer comes in pieces."""
        target = await self._target(path, query or {})
        async with self._http.stream(method, target, body, headers) as pieces:
            if pieces.status >= 300:
                whole = b"".join([piece async for piece in pieces])
                _check(Reply(pieces.status, whole), kind or "engine call", subject or path)
            yield pieces

    async def take_over(self, path: str, kind: str, subject: str, body: Any = None, **query: Any) -> TakenOver:
        """A call that ends in a connection of streams."""
        taken = await self._http.take_over(await self._target(path, query), encoded(body or {}))
        if isinstance(taken, Reply):
            _check(taken, kind, subject)
            raise Unknown(f"the engine has not handed over the connection: {taken.status}")
        return taken

    async def inspect(self, name: str, kind: str = "container") -> dict[str, Any]:
        """GET /containers/NAME/json. Raises `NotFound`."""
        told: dict[str, Any] = await self.get(f"/containers/{quote(name)}/json", kind, name)
        return told

    async def image(self, name: str) -> dict[str, Any]:
        """GET /images/NAME/json. Raises `NotFound`."""
        told: dict[str, Any] = await self.get(f"/images/{quote(name)}/json", "image", name)
        return told

    def close(self) -> None:
        """Let go of idle connections."""
        self._http.close()

    async def _json(self, method: str, target: str) -> Any:
        reply = await self._http.request(method, target)
        _check(reply, "engine", target)
        return json.loads(reply.body)

    async def _target(self, path: str, query: Mapping[str, Any]) -> str:
        if self._api is None:
            self._api = _agreed(await self._json("GET", "/version"))
        asked = urlencode({key: value for key, value in query.items() if value is not None})
        major, minor = self._api
        return f"/v{major}.{minor}{path}" + (f"?{asked}" if asked else "")


def facts(version: Mapping[str, Any], info: Mapping[str, Any], api: tuple[int, int]) -> EngineFacts:
    """What the two replies say."""
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
    """JSON for the engine. Raises `InvalidArgument` for text that was no UTF-8: the engine would take it for another."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            "config", f"holds bytes that are no UTF-8, which the engine cannot take: {error.object[:40]!a}"
        ) from error


def _agreed(told: Mapping[str, Any]) -> tuple[int, int]:
    newest, oldest = _version(told.get("ApiVersion")), _version(told.get("MinAPIVersion"))
    if newest < OLDEST or oldest > NEWEST:
        raise Unavailable(f"the engine speaks versions {oldest} to {newest} of its API; this backend {OLDEST} to {NEWEST}")
    return min(newest, NEWEST)


def _version(text: str | None) -> tuple[int, int]:
    major, _, minor = (text or "1.0").partition(".")
    return int(major), int(minor)


def _check(reply: Reply, kind: str, subject: str) -> None:
    if reply.status < 300 or reply.status == 304:  # 304: it was so already
        return
    try:
        message = str(json.loads(reply.body)["message"])
    except (ValueError, KeyError, TypeError):
        message = reply.body[:200].decode(errors="replace")
    raise refusal(reply.status, message, kind, subject)


def refusal(status: int, message: str, kind: str, subject: str) -> CrishimError:
    """The engine's error as ours."""
    match status:
        case 400:
            return InvalidArgument(kind, message)
        case 404:
            return NotFound(kind, subject)
        case 409:
            return Conflict(message)
        case 503:
            return Unavailable(message)
    return Unknown(f"{kind} {subject}: the engine says: {message}")
