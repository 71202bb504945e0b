"""Capabilities of a container's process."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from crishim.pods.privileges import limit_capabilities
limit_capabilities({"CAP_CHOWN", "CAP_KILL"})
import os
os.execvp("grep", ["grep", "Cap", "/proc/self/status"])
"""


@pytest.mark.node
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root")
def test_a_program_has_no_other_capability() -> None:
    """The next program has these capabilities and no others, and can get no others."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    sets = {name.rstrip(":"): int(mask, 16) for name, mask in (line.split() for line in done.stdout.splitlines())}
    assert {"CapInh": 0, "CapPrm": 0x21, "CapEff": 0x21, "CapBnd": 0x21, "CapAmb": 0} == sets
