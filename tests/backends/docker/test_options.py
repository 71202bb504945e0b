"""The backend's options."""

from typing import Any

import pytest

from crishim.backends.docker.options import Options, read_options
from crishim.errors import InvalidArgument


def test_defaults() -> None:
    """Nothing need be said: the usual socket, this node's CNI, the engine's own runtime."""
    options = read_options({})
    assert Options() == options
    assert options.cni


def test_given() -> None:
    """What is said is taken; any other network is one of the engine's."""
    options = read_options({"socket": "/s", "network": "bridge", "log_files": 1})
    assert Options(socket="/s", network="bridge", log_files=1) == options
    assert 16 << 20 == options.log_bytes
    assert not options.cni


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"sokcet": "/s"}, "options.sokcet"),
        ({"socket": 1}, "options.socket"),
        ({"log_files": True}, "options.log_files"),
        ({"log_files": 0}, "options.log_files"),
        ({"log_size": "big"}, "options.log_size"),
        ({"pull_stall": 0}, "options.pull_stall"),
        ({"network": ""}, "options.network"),
    ],
)
def test_refused(given: dict[str, Any], field: str) -> None:
    """What is not known, or makes no sense, is refused by name."""
    with pytest.raises(InvalidArgument) as refused:
        read_options(given)
    assert field == refused.value.field
