"""`crishim pull`, from a registry of our own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from crishim.cli.pull import shown
from crishim.images.skopeo_process import PullProgress
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, images, one_node, real_plugins


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@pytest.fixture
def node(image: str) -> Iterator[Node]:
    with one_node(image, number=78) as node:
        yield node


def pull(node: Node, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the command with the node's configuration, or with other options."""
    chosen = options or ("--config", str(node.place / "crishim.toml"))
    return subprocess.run(
        [sys.executable, "-m", "crishim", "pull", *chosen, node.image], capture_output=True, text=True, check=False
    )


@pytest.mark.node
@needs(*TOOLS)
@real_plugins()
async def test_into_the_store_or_by_the_server(node: Node) -> None:
    """Without a server the image goes into its store, with one the server pulls it; the id is the same."""
    first = pull(node)
    assert (0, "sha256:") == (first.returncode, first.stdout[:7])
    assert f"pulled {node.image}, " in first.stderr
    node.start()
    async with node.client():
        for options in ((), ("--endpoint", f"{node.place}/cri.sock")):
            again = pull(node, *options)
            assert (0, first.stdout) == (again.returncode, again.stdout)


@pytest.mark.node
@needs(*TOOLS)
@real_plugins()
def test_an_image_that_is_not_there(node: Node) -> None:
    """The command ends with 1 and the registry's word."""
    node.image = node.image.replace("busybox", "nothing")
    done = pull(node)
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("crishim: ")
    assert "nothing" in done.stderr


def test_progress_without_a_terminal(tmp_path: Path) -> None:
    """Each pull has one line, once all of it is there."""
    with (tmp_path / "out").open("w") as file, shown(Console(file=file, width=100)) as progress:
        for name, done in (("a", 0), ("b", 5 << 20), ("a", 1 << 20), ("b", 10 << 20), ("b", 10 << 20)):
            progress(PullProgress(name, done, 10 << 20))
    assert ["pulled b, 10.0 MiB"] == (tmp_path / "out").read_text().split("\n")[:-1]


def test_a_wait_without_a_terminal(tmp_path: Path) -> None:
    """Each reason to wait has one line, also before the size of the image is known."""
    with (tmp_path / "out").open("w") as file, shown(Console(file=file, width=100)) as progress:
        for total, waiting in ((0, "busy"), (0, "busy"), (1, "busy"), (1, ""), (1, "busy")):
            progress(PullProgress("a", 0, total, waiting))
    assert ["pulling a: busy"] * 2 == (tmp_path / "out").read_text().split("\n")[:-1]
