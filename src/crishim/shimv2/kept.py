"""What containerd configured a task's runtime with, kept in its bundle.

The binary's `delete` is asked without it, and maybe of another daemon than the one that made the task.
"""

import base64
import contextlib
import json
from pathlib import Path
from typing import Final

from crishim.oci.bundle import write_atomically

NAME: Final = "runtime-options.json"
NONE: Final = ("", b"")


def keep_options(bundle: Path, options: tuple[str, bytes]) -> None:
    """Write them, by type and value; nothing where there are none."""
    if options != NONE:
        kind, value = options
        write_atomically(bundle / NAME, json.dumps({"type": kind, "value": base64.b64encode(value).decode()}))


def kept_options(bundle: Path) -> tuple[str, bytes]:
    """What was written; `NONE` where that is nothing, or nothing that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((bundle / NAME).read_text(encoding="utf-8"))
        return str(told["type"]), base64.b64decode(told["value"], validate=True)
    return NONE
