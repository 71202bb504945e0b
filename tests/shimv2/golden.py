"""What was recorded between containerd and its shims."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "golden" / "shimv2"


def entries(name: str) -> list[dict[str, Any]]:
    """Every line of a recording."""
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def commands(name: str) -> list[dict[str, Any]]:
    """The runs of the shim's binary."""
    return [entry["command"] for entry in entries(name) if "command" in entry]


def answers(name: str, method: str) -> list[bytes]:
    """The payload-bearing data of the responses to a method, without the frames' headers."""
    requests: set[tuple[str, int]] = set()
    found = []
    for entry in entries(name):
        key = (entry.get("conn", ""), entry.get("stream", 0))
        if entry.get("method") == method:
            requests.add(key)
        elif entry.get("type") == 2 and key in requests:
            found.append(bytes.fromhex(entry["hex"]))
    return found
