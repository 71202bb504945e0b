"""What is published: built as `make package` builds it, without the installation into empty environments."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_is_whole(dist: Path) -> None:
    """The wheel has every source file, the mark of typed packages, the man page, the licence, and nothing else's code."""
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py*") if "__pycache__" not in path.parts}
    assert set() == sources - names
    assert {"crishim"} == {name.split("/")[0] for name in names if ".dist-info" not in name and ".data/" not in name}
    assert "crishim/py.typed" in names
    ends = (".data/data/share/man/man1/crishim.1", ".dist-info/licenses/LICENSE", ".dist-info/entry_points.txt")
    assert all(any(name.endswith(end) for name in names) for end in ends)


def test_the_sdist_has_what_its_tests_need(dist: Path) -> None:
    """The sdist holds sources, tests, pages, examples and the files at the top."""
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"src/crishim/__init__.py", "tests/test_house.py", "docs/tutorial.md", "docs/pictures/play.svg", "Makefile"}
    wanted |= {"examples/hello.yaml", "docs/conf.py", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"}
    assert set() == wanted - names
    hidden = ("__pycache__", ".")
    examples = [path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*") if path.is_file()]
    assert set() == {str(path) for path in examples if not any(part.startswith(hidden) for part in path.parts)} - names


def test_metadata_is_what_an_index_takes(dist: Path) -> None:
    """Twine finds nothing to complain about."""
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(dist.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, 2) == (done.returncode, done.stdout.count("PASSED")), done.stdout + done.stderr
