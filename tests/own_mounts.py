"""Tests that could mount over the machine: each runs in a child with a mount namespace of its own."""

import os
import subprocess
import sys
from typing import Final

import pytest

_INSIDE: Final = "CRISHIM_OWN_MOUNTS"
_ENTER: Final = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --make-rshared / && exec "$@"', "sh")
"""Nothing travels to the machine; within, mounts are shared, as systemd leaves them on a node."""


def run_in_own_mounts(request: pytest.FixtureRequest) -> bool:
    """Run the present test in such a child and assert that it passes there; False in the child, where the test is to go on.

    The test opens with `if run_in_own_mounts(request): return`, and its fixtures must not need the namespace.
    """
    if os.environ.get(_INSIDE) == request.node.nodeid:
        return False
    command = [*_ENTER, sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", request.node.nodeid]
    done = subprocess.run(
        command,
        cwd=request.config.rootpath,
        env={**os.environ, _INSIDE: request.node.nodeid},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    return True
