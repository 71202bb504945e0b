"""Probes and hooks: a command in the container, a request to the pod's address, or a pause.

The rules are the kubelet's: a probe by HTTP succeeds with a status from 200 to 399, follows redirects on its host, and counts
a redirect to another host as a success; https certificates are not verified; a hook by HTTP succeeds with any response. The
startup probe runs first, then liveness and readiness concurrently.
"""

import asyncio
import http.client
import ssl
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urljoin, urlsplit

import attrs
import grpc.aio

from crishim.errors import Code
from crishim.interfaces.seats import Clock
from crishim.play.client import CallError, CriClient
from crishim.play.concurrency import together
from crishim.play.pod import Handler, PodContainer, Probe

_AGENT: Final = "kube-probe/crishim"
_REDIRECTS: Final = 10
_MOST: Final = 10 * 1024
_HOOK_SECONDS: Final = 30.0
_SERVING: Final = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse with status SERVING


@attrs.frozen(kw_only=True)
class Target:
    """A running container: its id, and the address of its pod."""

    client: CriClient
    container_id: str
    address: str


@attrs.frozen
class Answer:
    """The result of a handler. `ok` is None if the handler itself could not be run; `text` is a message, `code` the exit code
    of a command.
    """

    ok: bool | None
    text: str = ""
    code: int = 0


async def probe(target: Target, handler: Handler, timeout: int) -> Answer:
    """Run a probe's handler once; `timeout` in seconds."""
    if handler.kind == "exec":
        return await _exec(target, handler, timeout)
    try:
        async with asyncio.timeout(timeout):
            if handler.kind == "tcpSocket":
                _, writer = await asyncio.open_connection(handler.host or target.address, handler.port)
                writer.close()
                return Answer(ok=True)
            if handler.kind == "grpc":
                return await _health(target, handler, timeout)
            status, text = await asyncio.to_thread(_get, handler, target.address, timeout)
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a redirect to no address
        return Answer(ok=False, text=str(error) or type(error).__name__)
    return Answer(ok=200 <= status < 400, text=text if status < 300 else f"status {status} {text}".strip())


async def hook(target: Target, handler: Handler) -> Answer:
    """Run a hook's handler, except `sleep`, which the caller runs."""
    if handler.kind == "exec":
        answer = await _exec(target, handler, 0)
        return Answer(ok=bool(answer.ok), text=f"exit code {answer.code}" if answer.code else answer.text, code=answer.code)
    try:
        await asyncio.to_thread(_get, handler, target.address, _HOOK_SECONDS)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(ok=False, text=str(error) or type(error).__name__)
    return Answer(ok=True)


async def _exec(target: Target, handler: Handler, timeout: int) -> Answer:
    try:
        reply = await target.client.exec_sync(target.container_id, handler.command, timeout)
    except CallError as error:
        return Answer(ok=False if error.code is Code.DEADLINE_EXCEEDED else None, text=error.message)
    text = (reply.stdout + reply.stderr).decode(errors="replace").strip()
    return Answer(ok=reply.exit_code == 0, text=text, code=reply.exit_code)


async def _health(target: Target, handler: Handler, timeout: int) -> Answer:
    service = handler.service.encode()
    request = b"\x0a" + bytes([len(service)]) + service if service else b""
    try:
        async with grpc.aio.insecure_channel(f"{target.address}:{handler.port}") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=None, response_deserializer=None)
            reply = await check(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        return Answer(ok=False, text=str(error.details()))
    return Answer(ok=reply == _SERVING, text="" if reply == _SERVING else "it is not serving")


def _get(handler: Handler, address: str, timeout: float) -> tuple[int, str]:
    host, path = handler.host or address, handler.url_path
    for _ in range(_REDIRECTS):
        status, location, text = _get_once(handler, host, path, timeout)
        there = urlsplit(urljoin(f"//{host}:{handler.port}{path}", location))
        here = there.hostname == host and (there.port or handler.port) == handler.port
        if not (300 <= status < 400 and location and here):
            return status, text
        path = there.path + (f"?{there.query}" if there.query else "")
    raise http.client.HTTPException(f"stopped after {_REDIRECTS} redirects")


def _get_once(handler: Handler, host: str, path: str, timeout: float) -> tuple[int, str, str]:
    connection: http.client.HTTPConnection
    if handler.scheme == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, handler.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(host, handler.port, timeout=timeout)
    headers = {"User-Agent": _AGENT, "Accept": "*/*", **dict(handler.headers)}
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.headers.get("Location", ""), reply.read(_MOST).decode(errors="replace").strip()
    finally:
        connection.close()


class Prober:
    """The probes of one running container.

    `started` is called once the container counts as started, `ready` whenever its readiness changes, `unhealthy` with the name
    of the probe and its last output when a liveness or startup probe has failed finally; probing then ends.
    """

    def __init__(
        self,
        target: Target,
        clock: Clock,
        one: PodContainer,
        *,
        started: Callable[[], None],
        ready: Callable[[bool], None],
        unhealthy: Callable[[Probe, str, str], Awaitable[None]],
    ) -> None:
        self._target = target
        self._clock = clock
        self._one = one
        self._started = started
        self._ready = ready
        self._unhealthy = unhealthy
        self._output = ""

    async def run(self) -> None:
        """Probe until cancelled, or until a probe has failed finally."""
        one = self._one
        if one.startup is not None and not await self._comes_up(one.startup):
            await self._unhealthy(one.startup, "startup", self._output)
            return
        self._started()
        async with together() as group:
            if one.readiness is None:
                self._ready(True)
            else:
                group.create_task(self._watch_readiness(one.readiness))
            if one.liveness is not None:
                group.create_task(self._watch_liveness(one.liveness))

    async def _comes_up(self, probe: Probe) -> bool:
        """Whether a startup probe succeeds before its failure threshold."""
        await self._clock.sleep(probe.initial_delay)
        good = bad = 0
        while True:
            result = await self._ask(probe)
            if result is not None:
                good, bad = (good + 1, 0) if result else (0, bad + 1)
            if good >= probe.successes:
                return True
            if bad >= probe.failures:
                return False
            await self._clock.sleep(probe.period)

    async def _watch_readiness(self, probe: Probe) -> None:
        await self._clock.sleep(probe.initial_delay)
        ready = False
        row = 0
        while True:
            result = await self._ask(probe)
            row = row + 1 if result is not None and result is not ready else 0
            if row >= (probe.failures if ready else probe.successes):
                ready, row = not ready, 0
                self._ready(ready)
            await self._clock.sleep(probe.period)

    async def _watch_liveness(self, probe: Probe) -> None:
        await self._clock.sleep(probe.initial_delay)
        bad = 0
        while bad < probe.failures:
            result = await self._ask(probe)
            if result is not None:
                bad = 0 if result else bad + 1
            if bad < probe.failures:
                await self._clock.sleep(probe.period)
        await self._unhealthy(probe, "liveness", self._output)

    async def _ask(self, one: Probe) -> bool | None:
        """Success, failure, or None if the probe itself could not be run: the kubelet ignores such a result."""
        answer = await probe(self._target, one.handler, one.timeout)
        self._output = answer.text
        return answer.ok
