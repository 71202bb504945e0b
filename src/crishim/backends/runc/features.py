"""What a runtime can do that older versions cannot: by its own word, `features`, or by its version where it has no such word.

Pure. Recursive read-only mounts came with runc 1.1 and crun 1.4, mounts with ids of their own with runc 1.2 and crun 1.8; crun
answers `features` since 1.8.7, and speaks of id mappings in it since 1.9.
"""

import json
from typing import Final

import attrs

from crishim.model.honours import OCI, Honour
from crishim.model.runtime import RuntimeHandlerFeatures

Version = tuple[int, ...]

_RECURSIVE_READONLY: Final[dict[str, Version]] = {"runc": (1, 1), "crun": (1, 4)}
_IDMAP: Final[dict[str, Version]] = {"runc": (1, 2), "crun": (1, 8)}
_KERNEL_RECURSIVE_READONLY: Final = (5, 12)
_KERNEL_IDMAP: Final = (5, 19)
"""Overlayfs takes layers with ids of their own since then."""


@attrs.frozen(kw_only=True)
class Features:
    """What one runtime can do on one kernel."""

    recursive_readonly: bool = False
    idmap: bool = False

    @property
    def honours(self) -> frozenset[Honour]:
        """The wishes that can be kept with them."""
        kept = set(OCI)
        if self.recursive_readonly:
            kept.add(Honour.RECURSIVE_READONLY_MOUNTS)
        if self.idmap:
            kept |= {Honour.USER_NAMESPACE, Honour.IDMAP_MOUNTS}
        return frozenset(kept)

    @property
    def advertised(self) -> RuntimeHandlerFeatures:
        """The same for Status."""
        return RuntimeHandlerFeatures(recursive_read_only_mounts=self.recursive_readonly, user_namespaces=self.idmap)


def features(name: str, version: str, told: str, kernel: tuple[int, int]) -> Features:
    """`told` is the answer to `features`, empty where the runtime knows no such word."""
    number = version_of(version)
    readonly = _since(_RECURSIVE_READONLY, name, number)
    idmap = _since(_IDMAP, name, number)
    try:
        answer = json.loads(told)
        readonly = "rro" in answer.get("mountOptions", ())
        idmap = bool(answer["linux"]["mountExtensions"]["idmap"]["enabled"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # it says nothing of it, and its version must do
    return Features(
        recursive_readonly=readonly and kernel >= _KERNEL_RECURSIVE_READONLY,
        idmap=idmap and kernel >= _KERNEL_IDMAP,
    )


def version_of(text: str) -> Version:
    """`1.1.5+ds1` -> (1, 1, 5); empty for what begins with no number."""
    numbers = []
    for part in text.split("."):
        digits = "".join(part[: next((at for at, char in enumerate(part) if not char.isdigit()), len(part))])
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def _since(table: dict[str, Version], name: str, version: Version) -> bool:
    return name in table and version >= table[name]
