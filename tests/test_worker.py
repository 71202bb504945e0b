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


def run(*requests: tuple[str | Path, ...], parent: int = os.getpid()) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "crishim.worker", str(parent)]
    lines = "".join(json.dumps([str(item) for item in request]) + "\n" for request in requests)
    done = subprocess.run(command, input=lines, capture_output=True, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def blob(place: Path, name: str, data: bytes) -> Path:
    path = place / name
    path.write_bytes(data)
    return path


def test_layers_are_unpacked_and_settled(tmp_path: Path) -> None:
    """One worker unpacks several layers, another settles their dependencies, and a settled one is left alone."""
    low = tar_of(folder("d", mode=0o700, uid=7), File("d/f", b"low"))
    high = tar_of(File("d/g", b"high"), hardlink("d/h", "d/f"))
    layers = {"low": low, "high": high}
    unpacked = run(*(("unpack", blob(tmp_path, f"{name}.tar", data), tmp_path / name) for name, data in layers.items()))
    assert [digest_of(low), digest_of(high)] == [answer["diff_id"] for answer in unpacked]
    assert [{}, {}] == run(*[("settle", tmp_path / "low", tmp_path / "high")] * 2)
    status = (tmp_path / "high" / "fs" / "d").stat()
    assert (0o40700, 7, "low") == (status.st_mode, status.st_uid, (tmp_path / "high" / "fs" / "d" / "h").read_text())
    assert {"fs"} == {path.name for path in (tmp_path / "high").iterdir()}


@pytest.mark.parametrize(
    ("data", "error"), [(b"no tar" * 1000, "DataLoss"), (tar_of(File("../out")), "DataLoss"), (None, "Unknown")]
)
def test_errors_have_a_kind(tmp_path: Path, data: bytes | None, error: str) -> None:
    """What cannot be unpacked is one line with the kind of the error, and the worker continues with the next request."""
    path = tmp_path / "none" if data is None else blob(tmp_path, "b", data)
    good = blob(tmp_path, "good", tar_of(File("f")))
    answer, after = run(("unpack", path, tmp_path / "place"), ("unpack", good, tmp_path / "after"))
    assert (error, True, digest_of(tar_of(File("f")))) == (answer["error"], bool(answer["message"]), after["diff_id"])


def test_whose_child_it_is(tmp_path: Path) -> None:
    """A worker whose parent has ended already does nothing."""
    (answer,) = run(("unpack", tmp_path, tmp_path / "place"), parent=1)
    assert "InvalidArgument" == answer["error"]
    assert not (tmp_path / "place").exists()


def test_what_is_imported() -> None:
    """A worker, of which a pull starts several, imports neither attrs nor asyncio, which take longer than all else."""
    code = "import crishim.worker, sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert set() == {"attr", "attrs", "asyncio"} & {*done.stdout.split()}
