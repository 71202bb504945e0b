import json
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
