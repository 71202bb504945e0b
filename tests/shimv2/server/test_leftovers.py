"""The records of tasks, in their bundles and beside them."""

from pathlib import Path

import pytest

from crishim.shimv2.server.task import NAME, NONE, TaskRecords

KEY = ("k8s.io", "t1")


@pytest.mark.parametrize("options", [NONE, ("containerd.runc.v1.Options", b"\x3a\x01\xff"), ("a.b", b"")])
def test_round_trip(tmp_path: Path, options: tuple[str, bytes]) -> None:
    """A saved record is read again, with bytes of any value; there is none before it is saved nor after it is forgotten."""
    records, bundle = TaskRecords(tmp_path / "tasks"), tmp_path / "bundle"
    bundle.mkdir()
    assert (None, {}) == (records.options(bundle), records.left())
    records.save(KEY, bundle, options)
    assert (options, {KEY: bundle}) == (records.options(bundle), TaskRecords(tmp_path / "tasks").left())
    records.forget(KEY, bundle)
    assert (None, {}) == (records.options(bundle), records.left())


def test_a_name_that_is_used_again(tmp_path: Path) -> None:
    """The link leads to the later bundle, also where the earlier one's was left."""
    records = TaskRecords(tmp_path / "tasks")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        records.save(KEY, tmp_path / name, NONE)
    assert {KEY: tmp_path / "two"} == records.left()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "a", "value": 5}', '{"type": "a", "value": "%%%"}', "null"])
def test_nonsense(tmp_path: Path, text: str) -> None:
    """An unreadable file counts as no options: the task must be freed nevertheless."""
    (tmp_path / NAME).write_text(text)
    assert NONE == TaskRecords(tmp_path / "tasks").options(tmp_path)


def test_no_bundle(tmp_path: Path) -> None:
    """Nor does a bundle that is gone already stop anything."""
    records = TaskRecords(tmp_path / "tasks")
    assert NONE == records.options(tmp_path / "gone")
    records.forget(KEY, tmp_path / "gone")
