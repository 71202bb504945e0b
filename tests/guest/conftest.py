"""What the guest's tests share."""

from collections.abc import Iterator

import pytest

from tests.node.world import Node, images, one_node


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with images(tmp_path_factory.mktemp("images")) as reference:
        yield reference


@pytest.fixture(params=["runc", "crun"])
def node(image: str, request: pytest.FixtureRequest) -> Iterator[Node]:
    with one_node(image, runtime=request.param) as node:
        yield node
