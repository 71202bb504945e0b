import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.backends.runc.world import needs
from tests.node.registry import File, digest_of, folder, hardlink, tar_of

pytestmark = [pytest.mark.node, needs()]


def run(*arguments: str | Path, parent: int = os.getpid()) -> dict[str, Any]:
    command = [sys.executable, "-m", "crishim.worker", str(parent), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    (line,) = done.stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    return answer


def blob(place: Path, name: str, data: bytes) -> Path:
    path = place / name
    path.write_bytes(data)
    return path


def test_layers_are_unpacked_and_settled(tmp_path: Path) -> None:
    """Each layer has a worker of its own, another settles their dependencies, and a settled one is left alone."""
    low = tar_of(folder("d", mode=0o700, uid=7), File("d/f", b"low"))
    high = tar_of(File("d/g", b"high"), hardlink("d/h", "d/f"))
    for name, data in (("low", low), ("high", high)):
        answer = run("unpack", blob(tmp_path, f"{name}.tar", data), tmp_path / name)
        assert digest_of(data) == answer["diff_id"]
    for _ in range(2):
        assert {} == run("settle", tmp_path / "low", tmp_path / "high")
    status = (tmp_path / "high" / "fs" / "d").stat()
    assert (0o40700, 7, "low") == (status.st_mode, status.st_uid, (tmp_path / "high" / "fs" / "d" / "h").read_text())
    assert {"fs"} == {path.name for path in (tmp_path / "high").iterdir()}


@pytest.mark.parametrize(
    ("data", "error"), [(b"no tar" * 1000, "DataLoss"), (tar_of(File("../out")), "DataLoss"), (None, "Unknown")]
)
def test_errors_have_a_kind(tmp_path: Path, data: bytes | None, error: str) -> None:
    """What cannot be unpacked is one line with the kind of the error."""
    path = tmp_path / "none" if data is None else blob(tmp_path, "b", data)
    answer = run("unpack", path, tmp_path / "place")
    assert (error, True) == (answer["error"], bool(answer["message"]))


def test_whose_child_it_is(tmp_path: Path) -> None:
    """A worker whose parent has ended already does nothing."""
    assert "InvalidArgument" == run("unpack", tmp_path, tmp_path / "place", parent=1)["error"]
    assert not (tmp_path / "place").exists()
