"""A registry in this process that serves one layout, and misbehaves as a test wants."""

import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator

import attrs

from tests.node.registry import Layout

NOT_FOUND = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'


class Answering(http.server.BaseHTTPRequestHandler):
    """One request. `reply` answers it."""

    protocol_version = "HTTP/1.1"
    registry: "OddRegistry"

    def log_message(self, *_: object) -> None:
        """Requests are in `OddRegistry.seen`."""

    def reply(self, status: int, body: bytes = b"", **headers: str) -> bool:
        """Answer, and say so."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def do_GET(self) -> None:
        self.registry.seen.append((self.path, self.headers.get("Authorization", "")))
        if not self.registry.before(self):
            self.registry.answer(self)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for


@attrs.define
class OddRegistry:
    """Serves the tags of a layout in every repository. `before` may answer a request itself, and says whether it did."""

    layout: Layout
    port: int = 0
    before: Callable[[Answering], bool] = lambda _: False
    seen: list[tuple[str, str]] = attrs.field(factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, request: Answering) -> bool:
        _, _, rest = request.path.partition("/v2/")
        _, _, wanted = rest.rpartition("/")
        if not rest:
            return request.reply(200, b"{}")
        index = json.loads((self.layout.place / "index.json").read_bytes())
        tags = {item["annotations"]["org.opencontainers.image.ref.name"]: item["digest"] for item in index["manifests"]}
        digest = tags.get(wanted, wanted)
        blob = self.layout.place / "blobs" / "sha256" / digest.partition(":")[2]
        if not digest.startswith("sha256:") or not blob.is_file():
            return request.reply(404, NOT_FOUND, Content_Type="application/json")
        kind = "application/octet-stream"
        if "/manifests/" in request.path:
            kind = json.loads(blob.read_bytes())["mediaType"]
        return request.reply(200, blob.read_bytes(), Content_Type=kind, Docker_Content_Digest=digest)


@contextlib.contextmanager
def odd_registry(layout: Layout, tls: ssl.SSLContext | None = None) -> Iterator[OddRegistry]:
    registry = OddRegistry(layout)
    handler = type("Handler", (Answering,), {"registry": registry})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.block_on_close = False
    registry.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
