"""What a check is: a function of a node and a name for its pods, whose docstring is the sentence that it shows."""

from collections.abc import Callable
from typing import Final

import attrs

from tests.kubelet.world import KubeletNode

Checking = Callable[[KubeletNode, str], None]


@attrs.frozen
class Check:
    """A check. `alone`: no other check may run meanwhile, as when a kubelet is restarted. `server`: it needs the API server."""

    run: Checking
    alone: bool
    server: bool = False

    @property
    def name(self) -> str:
        """The prefix of its pods' names, by which a run selects it."""
        return self.run.__name__.replace("_", "-")

    @property
    def sentence(self) -> str:
        """What it shows."""
        return " ".join((self.run.__doc__ or "").partition("\n\n")[0].split())


CHECKS: Final[list[Check]] = []
"""In the order of their files."""


def check(function: Checking) -> Checking:
    """A check that may run beside others."""
    CHECKS.append(Check(function, alone=False))
    return function


def check_alone(function: Checking) -> Checking:
    """A check that runs when no other does, behind those that may."""
    CHECKS.append(Check(function, alone=True))
    return function


def check_with_server(function: Checking) -> Checking:
    """A check with an API server, that may run beside others."""
    CHECKS.append(Check(function, alone=False, server=True))
    return function


def check_with_server_alone(function: Checking) -> Checking:
    """A check with an API server that runs when no other does."""
    CHECKS.append(Check(function, alone=True, server=True))
    return function
