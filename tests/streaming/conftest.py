import json
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import self_signed

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
    certificate, key = self_signed(tmp_path)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate, key)
    return ours, ssl.create_default_context(cafile=str(certificate))
