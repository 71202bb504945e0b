import json
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

CAPTURES = Path(__file__).parent.parent / "golden" / "captures"


@pytest.fixture(scope="session")
def captured() -> Callable[[str, str], tuple[bytes, bytes]]:
    """What one side of a captured conversation sent: its HTTP head, with the empty line, and everything behind it."""

    def read(name: str, side: str) -> tuple[bytes, bytes]:
        lines = map(json.loads, (CAPTURES / f"{name}.jsonl").read_text().splitlines())
        sent = b"".join(bytes.fromhex(line["hex"]) for line in lines if line["from"] == side)
        head, end, rest = sent.partition(b"\r\n\r\n")
        return head + end, rest

    return read


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and that of a client who trusts it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate, key)
    return ours, ssl.create_default_context(cafile=str(certificate))
