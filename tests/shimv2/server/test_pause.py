"""The root file system of the pause containers."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crishim.pods.pause import PAUSE
from crishim.shimv2.server.pause import make_root
from tests.backends.runc.world import needs

NAMES = ["catatonit", "dev", "etc", "proc", "sys"]


@needs("catatonit")
def test_pods_that_start_at_once(tmp_path: Path) -> None:
    """Each finds the root complete, and nothing else is left in it."""
    for number in range(20):
        folder = tmp_path / str(number)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(make_root, [folder] * 8))
        assert NAMES == sorted(path.name for path in folder.iterdir())
        assert os.access(folder / PAUSE, os.X_OK)
