"""The relay that adds media types, with requests of its own kind: what skopeo makes of it is in the tests of pulls."""

import asyncio
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.images import relay as module
from crishim.images.endpoints import Endpoint
from crishim.images.relay import relay
from tests.certificates import self_signed
from tests.images.odd_registry import Answering, OddRegistry, odd_registry
from tests.node.registry import Layout

MANIFEST = json.dumps({"schemaVersion": 2, "manifests": []}).encode()


def answer(request: Answering) -> bool:
    if "/manifests/typed" in request.path:
        return request.reply(200, MANIFEST, Content_Type="application/vnd.docker.distribution.manifest.list.v2+json")
    if "/manifests/none" in request.path:
        return request.reply(200, b"no manifest", Content_Type="text/plain")
    if "/manifests/" in request.path:
        return request.reply(200, MANIFEST)
    if "/blobs/elsewhere" in request.path:
        return request.reply(307, Location="https://elsewhere.example/blob")
    return "/blobs/" in request.path and request.reply(
        206, b"0123456789", Content_Range="bytes 0-9/20", X=request.headers["Range"]
    )


@pytest.fixture
def registry(layout: Layout) -> Iterator[OddRegistry]:
    with odd_registry(layout) as registry:
        registry.before = answer
        yield registry


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, path, headers=headers)
    with connection.getresponse() as response:
        return response.status, dict(response.getheaders()), response.read()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("untyped", "application/vnd.oci.image.index.v1+json"),
        ("typed", "application/vnd.docker.distribution.manifest.list.v2+json"),
        ("none", "text/plain"),
    ],
)
async def test_manifests(registry: OddRegistry, tag: str, expected: str, method: str) -> None:
    """A manifest gets the media type that it lacks; one that has a type, and what is no manifest, is passed on."""
    async with relay(Endpoint(f"{registry.address}/team/image", insecure=True)) as there:
        host, _, path = there.repository.partition("/")
        status, headers, body = await asyncio.to_thread(ask, host, f"/v2/{path}/manifests/{tag}", method)
    assert (200, expected) == (status, headers["Content-Type"])
    assert (b"" if method == "HEAD" else b"no manifest" if tag == "none" else MANIFEST) == body


async def test_blobs(registry: OddRegistry) -> None:
    """Ranges, credentials, redirections and bytes are passed on as they are."""
    async with relay(Endpoint(f"{registry.address}/team/image", insecure=True)) as there:
        host, _, path = there.repository.partition("/")
        headers = {"Range": "bytes=0-9", "Authorization": "Basic eA=="}
        status, given, body = await asyncio.to_thread(lambda: ask(host, f"/v2/{path}/blobs/one", **headers))
        assert (206, "bytes 0-9/20", "bytes=0-9", b"0123456789") == (status, given["Content-Range"], given["X"], body)
        status, given, _ = await asyncio.to_thread(ask, host, f"/v2/{path}/blobs/elsewhere")
        assert (307, "https://elsewhere.example/blob") == (status, given["Location"])
    assert ("/v2/team/image/blobs/one", "Basic eA==") in registry.seen


async def test_a_blob_that_breaks_off(registry: OddRegistry) -> None:
    """What ends in the middle ends for the client, too: no page of an error stands among its bytes."""

    def break_off(request: Answering) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(b"begun")
        request.close_connection = True
        return True

    registry.before = break_off
    async with relay(Endpoint(f"{registry.address}/team/image", insecure=True)) as there:
        host, _, path = there.repository.partition("/")
        with pytest.raises(http.client.IncompleteRead) as broken:
            await asyncio.to_thread(ask, host, f"/v2/{path}/blobs/one")
    assert b"begun" == broken.value.partial


async def test_no_other_repository(registry: OddRegistry) -> None:
    """Nothing of the registry but the one repository can be reached, and no method that writes."""
    async with relay(Endpoint(f"{registry.address}/team/image", insecure=True)) as there:
        host = there.repository.partition("/")[0]
        assert 404 == (await asyncio.to_thread(ask, host, "/v2/team/other/manifests/one"))[0]
        assert 501 == (await asyncio.to_thread(ask, host, "/v2/team/image/manifests/one", "PUT"))[0]
    assert [] == registry.seen


async def test_a_registry_that_is_gone(registry: OddRegistry) -> None:
    """A registry that cannot be reached is a bad gateway."""
    async with relay(Endpoint("127.0.0.1:1/team/image", insecure=True)) as there:
        host, _, path = there.repository.partition("/")
        assert 502 == (await asyncio.to_thread(ask, host, f"/v2/{path}/manifests/one"))[0]


@pytest.mark.parametrize(("trusted", "insecure", "expected"), [(False, True, 200), (False, False, 502), (True, False, 200)])
async def test_certificates(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, trusted: bool, insecure: bool, expected: int
) -> None:
    """A registry's certificate is verified by the authorities that containers-certs.d(5) has for it, unless it is insecure."""
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    monkeypatch.setattr(module, "_CERTIFICATES", (tmp_path / "certs.d",))
    with odd_registry(layout, context) as registry:
        registry.before = answer
        folder = tmp_path / "certs.d" / registry.address
        folder.mkdir(parents=True)
        if trusted:
            certificate.rename(folder / "ca.crt")
        async with relay(Endpoint(f"{registry.address}/team/image", insecure=insecure)) as there:
            host, _, path = there.repository.partition("/")
            assert expected == (await asyncio.to_thread(ask, host, f"/v2/{path}/manifests/untyped"))[0]
