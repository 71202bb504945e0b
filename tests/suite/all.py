"""Run the official suite against one runtime after the other: `python -m tests.suite.all`.

Begins no further one once an hour has passed, and says which are left out. Exits 0 if none that was run failed.
"""

import subprocess
import sys
import time
from typing import Final

RUNTIMES: Final = ("runc", "crun", "docker", "shim")
HOUR: Final = 3600.0


def main() -> int:
    """Run them."""
    begun = time.monotonic()
    failed, left_out = [], []
    for runtime in RUNTIMES:
        if time.monotonic() - begun > HOUR:
            left_out.append(runtime)
        elif subprocess.run([sys.executable, "-m", "tests.suite.run", runtime], check=False).returncode:
            failed.append(runtime)
    if left_out:
        print("left out, for want of time:", *left_out)
    print("the official suite failed for:" if failed else "the official suite passed.", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
