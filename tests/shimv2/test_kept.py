"""What is kept of a task in its bundle."""

from pathlib import Path

import pytest

from crishim.shimv2.kept import NAME, NONE, forget_options, keep_options, kept_options


@pytest.mark.parametrize("options", [NONE, ("containerd.runc.v1.Options", b"\x3a\x01\xff"), ("a.b", b"")])
def test_round_trip(tmp_path: Path, options: tuple[str, bytes]) -> None:
    """What is kept is read again, bytes of any value too; nothing is there before, and nothing after it was forgotten."""
    assert None is kept_options(tmp_path)
    keep_options(tmp_path, options)
    assert options == kept_options(tmp_path)
    forget_options(tmp_path)
    assert None is kept_options(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "a", "value": 5}', '{"type": "a", "value": "%%%"}', "null"])
def test_nonsense(tmp_path: Path, text: str) -> None:
    """A file that cannot be read counts as no options: the task is to be freed all the same."""
    (tmp_path / NAME).write_text(text)
    assert NONE == kept_options(tmp_path)


def test_no_bundle(tmp_path: Path) -> None:
    """Nor does a bundle that is gone already stop anything."""
    assert NONE == kept_options(tmp_path / "gone")
    forget_options(tmp_path / "gone")
