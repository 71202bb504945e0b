"""The exam, and a pod of two containers; needs bwrap (apt-get install bubblewrap)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bubblewrap_backend import BubblewrapBackend

from crishim import Backend, BackendContext
from crishim.testing.conformance import BackendConformance

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bwrap: apt-get install bubblewrap")
FOLDER = Path(__file__).parents[1]


class TestBubblewrap(BackendConformance):
    survives_restart = False  # sandboxes die with crishim
    writable_root = False  # but for /tmp

    async def make_backend(self, context: BackendContext) -> Backend:
        exam = context.state / "images" / "exam"  # the exam's image is this machine's root
        exam.parent.mkdir(exist_ok=True)
        if not exam.is_symlink():
            exam.symlink_to("/")
        return BubblewrapBackend(context)


def crishim(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "crishim", *words], capture_output=True, text=True, timeout=100, check=False)


def test_a_pod_of_two_containers_is_played() -> None:
    """Both share a volume and a host name, are the first process of their own, and cannot write to the image."""
    done = crishim("play", str(FOLDER / "pod.yaml"), "--backend", "bubblewrap")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split("|")[-1].strip() for line in done.stdout.splitlines() if "|" in line]
    assert {"hello from a sandbox as process 1 on sandboxed", "done"} < set(lines)
    assert any("Read-only file system" in line for line in lines)


def test_what_it_does_not_support_is_refused(tmp_path: Path) -> None:
    """A pod with a memory limit is refused by the field's name."""
    text = (FOLDER / "pod.yaml").read_text().replace("image: host", "image: host\n    resources: {limits: {memory: 64Mi}}")
    (tmp_path / "pod.yaml").write_text(text)
    done = crishim("play", str(tmp_path / "pod.yaml"), "--backend", "bubblewrap")
    assert (done.returncode, "memory_limit_in_bytes" in done.stderr) == (125, True), done.stderr


def test_its_coverage_is_told() -> None:
    """`crishim coverage bubblewrap` prints the treatment of every field, with this backend's own reasons."""
    done = crishim("coverage", "bubblewrap", "--only", "ignored")
    assert (done.returncode, "there are no cgroups" in done.stdout) == (0, True), done.stderr
