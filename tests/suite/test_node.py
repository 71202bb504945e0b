"""Runs of the suite beside each other."""

import ipaddress
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from crishim.app import read_config
from crishim.config import Config
from crishim.errors import ResourceExhausted
from crishim.testing.suite import node
from crishim.testing.suite.node import Run, claimed, write_settings


def written(folder: Path, run: Run) -> tuple[Config, dict[str, Any]]:
    """A run's configuration, and its bridge in its network."""
    folder.mkdir()
    config = read_config(write_settings(folder, run, 5000, '[handlers]\n"" = "process"\n', ""))
    (network,) = Path(config.network.config).glob("*.conflist")
    return config, json.loads(network.read_text())["plugins"][0]


def test_two_runs_share_nothing(tmp_path: Path) -> None:
    """The configurations of two runs at once have bridges, addresses, sockets, folders and files of their own."""
    with claimed() as first, claimed() as second:
        one, bridge = written(tmp_path / "one", first)
        two, other = written(tmp_path / "two", second)
        names = {run.named("plugin") for run in (first, second)}
    assert 2 == len({bridge["bridge"], other["bridge"]}) == len(names)
    subnets = [ipaddress.ip_network(each["ipam"]["ranges"][0][0]["subnet"]) for each in (bridge, other)]
    assert not subnets[0].overlaps(subnets[1])
    for key in ("listen", "state", "runtime_state", "network", "images", "nri"):
        assert getattr(one, key) != getattr(two, key)
    assert bridge["ipam"]["dataDir"] != other["ipam"]["dataDir"]


def test_a_number_is_used_again() -> None:
    """The lowest free number is taken, so that what a killed run has left is replaced."""
    with claimed() as first:
        with claimed() as second:
            pass
        with claimed() as third:
            assert (second, first.number + 1) == (third, second.number)


def test_each_number_fits() -> None:
    """The last run's bridge has a name that the kernel accepts, and its addresses are in 10.87.0.0/16."""
    last = Run(node.RUNS - 1)
    assert len(last.bridge) <= 15
    assert ipaddress.IPv4Network(last.subnet).subnet_of(ipaddress.IPv4Network("10.87.0.0/16"))


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run for which there is no number is refused."""
    with claimed() as first:
        monkeypatch.setattr(node, "RUNS", first.number + 1)
        with pytest.raises(ResourceExhausted), claimed():
            pass


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the machine's other runs."""
    monkeypatch.setattr(node, "CLAIMS", f"\0test-{os.getpid()}-")


def test_a_run_begins_after_the_end_of_another(alone: None) -> None:
    """A run that begins while the last one stops the slice waits for that, and gets the number which that had."""
    begun: list[Run] = []

    def begin() -> None:
        with claimed(lambda: None) as run:
            begun.append(run)

    thread = threading.Thread(target=begin)

    def last() -> None:
        thread.start()
        thread.join(0.3)
        assert [] == begun

    with claimed(last) as first:
        pass
    thread.join(30)
    assert [first] == begun


def test_runs_that_end_together(alone: None) -> None:
    """Of runs that end at the same time exactly one is the last."""
    rounds = 60
    stops: list[int] = []

    def run(number: int, together: threading.Barrier) -> None:
        with claimed(lambda: stops.append(number)):
            together.wait(30)

    for number in range(rounds):
        together = threading.Barrier(2)
        threads = [threading.Thread(target=run, args=(number, together)) for _ in range(together.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert list(range(rounds)) == stops
