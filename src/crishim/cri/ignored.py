"""What of CRI no part of this library reads or writes, by message and field, and why. What stands behind such a field neither.

`tests/cri/test_field_ledger.py` holds it against the converters: every other field is read where it comes in.
"""

from collections.abc import Mapping
from typing import Final

_WINDOWS: Final = "for Windows; a Linux runtime passes it over"

IGNORED: Final[Mapping[tuple[str, str], str]] = {
    ("ContainerConfig", "windows"): _WINDOWS,
    ("ContainerResources", "windows"): _WINDOWS,
    ("PodSandboxConfig", "windows"): _WINDOWS,
    ("PodSandboxStats", "windows"): _WINDOWS,
    ("UpdateContainerResourcesRequest", "windows"): _WINDOWS,
}
