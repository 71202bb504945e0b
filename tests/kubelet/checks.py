"""What a check is: a function of a node and a name for its pods, whose docstring is the sentence that it shows."""

from collections.abc import Callable
from typing import Final

import attrs

from tests.kubelet.world import KubeletNode

Checking = Callable[[KubeletNode, str], None]


@attrs.frozen
class Check:
    """A check. `alone`: no other check may run meanwhile, as when the kubelet is restarted."""

    run: Checking
    alone: bool

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
