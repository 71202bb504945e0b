"""That there is a task, and what containerd configured its runtime with, kept in its bundle.

The binary's `delete` is asked without it, and maybe of another daemon than the one that made the task. It is asked after a
clean end, too: then nothing is kept any more, and nothing need be freed.
"""

import base64
import contextlib
import json
from pathlib import Path
from typing import Final

from crishim.oci.bundle import write_atomically

NAME: Final = "crishim-task.json"
NONE: Final = ("", b"")


def keep_options(bundle: Path, options: tuple[str, bytes]) -> None:
    """Write them, by type and value, before anything is made."""
    kind, value = options
    write_atomically(bundle / NAME, json.dumps({"type": kind, "value": base64.b64encode(value).decode()}))


def kept_options(bundle: Path) -> tuple[str, bytes] | None:
    """What was written; `NONE` where that is nothing that can be read, None where the bundle says that there is nothing."""
    if bundle.exists() and not (bundle / NAME).exists():
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((bundle / NAME).read_text(encoding="utf-8"))
        return str(told["type"]), base64.b64decode(told["value"], validate=True)
    return NONE


def forget_options(bundle: Path) -> None:
    """All is freed."""
    (bundle / NAME).unlink(missing_ok=True)
