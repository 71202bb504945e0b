"""The fields of CRI that this library neither reads nor writes, by message and field, with the reason. Fields below such a
field are ignored too.

`tests/cri/test_field_ledger.py` compares it with the converters: every other field is read.
"""

from collections.abc import Mapping
from typing import Final

_WINDOWS: Final = "for Windows; a Linux runtime ignores it"

IGNORED: Final[Mapping[tuple[str, str], str]] = {
    ("ContainerConfig", "windows"): _WINDOWS,
    ("ContainerResources", "windows"): _WINDOWS,
    ("PodSandboxConfig", "windows"): _WINDOWS,
    ("PodSandboxStats", "windows"): _WINDOWS,
    ("UpdateContainerResourcesRequest", "windows"): _WINDOWS,
}
