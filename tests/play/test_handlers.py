import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import pytest

from crishim.play.pod import Handler
from crishim.play.probes import Answer, Target, hook, probe

PLACE = "spec.containers[0].livenessProbe"


def target() -> Target:
    return Target(client=None, container_id="c", address="127.0.0.1")  # type: ignore[arg-type]  # nothing is executed


@contextlib.asynccontextmanager
async def answering(reply: Callable[[str], bytes], heads: list[str] | None = None) -> AsyncIterator[int]:
    """A server that answers each request by what `reply` makes of its path; the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if heads is not None:
                heads.append(head)
            writer.write(reply(head.split(" ")[1]))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def status(code: int, body: str = "", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} X", *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.mark.parametrize(("code", "ok"), [(200, True), (204, True), (304, True), (400, False), (503, False)])
async def test_a_status_below_400_is_success(code: int, ok: bool) -> None:
    """Statuses from 200 to 399 are success, others failure; a hook only asks for an answer."""
    async with answering(lambda path: status(code, "text" if path == "/well" else "")) as port:
        handler = Handler(kind="httpGet", path=PLACE, port=port, url_path="/well")
        assert ok is (await probe(target(), handler, 5)).ok
        assert (await hook(target(), handler)).ok


async def test_headers_are_sent() -> None:
    """A probe names itself, and its own headers go over that."""
    heads: list[str] = []
    async with answering(lambda _: status(200), heads) as port:
        own = (("Host", "example"), ("X-Own", "1"))
        await probe(target(), Handler(kind="httpGet", path=PLACE, port=port, headers=own), 5)
    (head,) = heads
    assert {"Host: example", "X-Own: 1", "User-Agent: kube-probe/crishim", "Accept: */*"} <= set(head.split("\r\n"))


async def test_redirects_are_followed_on_the_same_host() -> None:
    """A redirect on the pod is followed, one that leads elsewhere is a success, and a circle is a failure."""
    paths = {"/a": status(302, Location="/b"), "/b": status(500), "/c": status(302, Location="http://192.0.2.1/"), "/d": b""}
    paths["/d"] = status(302, Location="/d")
    async with answering(paths.__getitem__) as port:
        results = [
            (await probe(target(), Handler(kind="httpGet", path=PLACE, port=port, url_path=path), 5)).ok
            for path in ("/a", "/c", "/d")
        ]
    assert [False, True, False] == results


@pytest.mark.parametrize("place", ["http://127.0.0.1:99999/", "http://[::/", "//127.0.0.1:y/", "/\u00fc"])
async def test_a_redirect_to_no_address(place: str) -> None:
    """A container that redirects to an invalid address has failed its probe; a hook only needs a readable response."""
    async with answering(lambda _: status(302, Location=place)) as port:
        handler = Handler(kind="httpGet", path=PLACE, port=port)
        assert (False, False) == ((await probe(target(), handler, 5)).ok, (await hook(target(), handler)).ok)


async def test_a_port_that_takes_connections_is_success() -> None:
    """A TCP probe succeeds with a listener, and fails without; so does one by HTTP."""
    async with answering(lambda _: b"") as port:
        assert Answer(ok=True) == await probe(target(), Handler(kind="tcpSocket", path=PLACE, port=port), 5)
    for kind in ("tcpSocket", "httpGet"):
        answer = await probe(target(), Handler(kind=kind, path=PLACE, port=port), 5)
        assert (False, True) == (answer.ok, answer.text != "")


@pytest.mark.parametrize(("reply", "ok"), [(b"\x08\x01", True), (b"\x08\x02", False)])
async def test_a_service_says_whether_it_serves(reply: bytes, ok: bool) -> None:
    """A gRPC probe asks the health service for the status of a service by its name."""
    requests: list[bytes] = []

    async def check(request: bytes, context: object) -> bytes:
        del context
        requests.append(request)
        return reply

    server = grpc.aio.server()
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        answer = await probe(target(), Handler(kind="grpc", path=PLACE, port=port, service="mine"), 5)
    finally:
        await server.stop(None)
    assert (ok, [b"\x0a\x04mine"]) == (answer.ok, requests)
    gone = await probe(target(), Handler(kind="grpc", path=PLACE, port=port), 5)
    assert gone.ok is False
