"""What every test of this folder counts on."""

import ctypes

import pytest

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def no_subreaper() -> None:
    """Orphans go to the machine's first process: another backend in this process may have made it a child subreaper."""
    assert 0 == ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
