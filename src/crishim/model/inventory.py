"""What a backend holds."""

import attrs

from crishim.model.container import ObservedContainer
from crishim.model.sandbox import ObservedSandbox


@attrs.frozen(kw_only=True)
class Inventory:
    """Everything a backend holds, with its state, in any order."""

    sandboxes: tuple[ObservedSandbox, ...] = ()
    containers: tuple[ObservedContainer, ...] = ()
