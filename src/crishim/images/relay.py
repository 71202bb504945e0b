"""A registry on the loopback that adds to manifests the media type which their own registry leaves out.

skopeo takes a manifest's kind from the Content-Type of the response alone, and one without a known type for docker's obsolete
schema 1 (containers/image, manifest.NormalizedMIMEType). The distribution specification requires the header ("Pulling
manifests"), but there are registries that do not send it. An attempt that fails for this reason is repeated through a `Relay`,
which passes every request on to the one repository, and changes nothing but that header: the bytes, on which digests and
signatures depend, and the credentials are passed on as they are.
"""

import asyncio
import contextlib
import http.client
import http.server
import shutil
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from crishim.errors import CrishimError
from crishim.images.endpoints import Endpoint
from crishim.images.manifest import INDEX_TYPES, MANIFEST_TYPES, media_type_of
from crishim.images.skopeo_process import MAX_OUTPUT

_CERTIFICATES: Final = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
_TIMEOUT: Final = 60.0
_POLL: Final = 0.05
_PER_CONNECTION: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"})
"""Headers that are not passed on (RFC 9110, 7.6.1)."""


@contextlib.asynccontextmanager
async def relay(endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    """Serve a repository on the loopback for the time of the block; return the endpoint there."""
    host, _, path = endpoint.repository.partition("/")
    handler = type("_Handler", (_Handler,), {"host": host, "path_prefix": f"/v2/{path}/", "insecure": endpoint.insecure})
    with await asyncio.to_thread(http.server.ThreadingHTTPServer, ("127.0.0.1", 0), handler) as server:  # it looks up a name
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(_POLL,), name="crishim-relay", daemon=True)
        thread.start()
        try:
            yield Endpoint(f"127.0.0.1:{server.server_port}/{path}", insecure=True)
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    host: str
    path_prefix: str
    insecure: bool
    timeout = _TIMEOUT
    responded = False

    def log_message(self, *_: object) -> None:
        """As skopeo logs its own requests."""

    def do_GET(self) -> None:
        if self.path != "/v2/" and not self.path.startswith(self.path_prefix):
            self.send_error(http.HTTPStatus.NOT_FOUND)
            return
        try:
            with contextlib.closing(self._connect()) as connection:
                self._pass_on(connection)
        except (OSError, http.client.HTTPException) as error:
            self.close_connection = True
            if not self.responded:  # an error page in the middle of a blob would be taken for its bytes
                with contextlib.suppress(OSError):
                    self.send_error(http.HTTPStatus.BAD_GATEWAY, explain=str(error))

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _connect(self) -> http.client.HTTPConnection:
        """A connection to the registry: by TLS, and where it is insecure with any certificate, or without TLS."""
        context = _tls(self.host, self.insecure)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(self.host, timeout=_TIMEOUT, context=context)
        try:
            connection.connect()
        except OSError:
            if not self.insecure:
                raise
            connection = http.client.HTTPConnection(self.host, timeout=_TIMEOUT)
            connection.connect()
        return connection

    def _pass_on(self, connection: http.client.HTTPConnection) -> None:
        is_manifest = self.path.startswith(f"{self.path_prefix}manifests/")
        left_out = {*_PER_CONNECTION, "host", "accept-encoding"}
        passed = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        connection.request("GET" if is_manifest else self.command, self.path, headers=passed)
        response = connection.getresponse()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _PER_CONNECTION]
        data = b""
        if is_manifest and response.status == http.HTTPStatus.OK:
            data = response.read(MAX_OUTPUT)
            headers = _typed(headers, data)
        self.responded = True
        self.send_response_only(response.status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            shutil.copyfileobj(response, self.wfile)


def _typed(headers: list[tuple[str, str]], manifest: bytes) -> list[tuple[str, str]]:
    """The headers of a manifest with its media type, if they do not have it."""
    given = {name.lower(): value for name, value in headers}.get("content-type", "")
    if given.partition(";")[0].strip() in INDEX_TYPES | MANIFEST_TYPES:
        return headers
    try:
        kind = media_type_of(manifest)
    except CrishimError:
        return headers
    return [*((name, value) for name, value in headers if name.lower() != "content-type"), ("Content-Type", kind)]


def _tls(host: str, insecure: bool) -> ssl.SSLContext:
    """The system's certificate authorities and those of containers-certs.d(5) for this registry."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for folder in _CERTIFICATES:
        for file in sorted((folder / host).glob("*.crt")):
            context.load_verify_locations(file)
        for file in sorted((folder / host).glob("*.cert")):
            context.load_cert_chain(file, file.with_suffix(".key"))
    return context
