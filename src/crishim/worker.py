"""The worker of an image store: a process that unpacks and hashes layers, beside the server's event loop and out of its memory.

    python -m crishim.worker PARENT

Each line on its stdin is a request in JSON, and is answered by a line on its stdout before the next is read:

    ["unpack", BLOB, PLACE]
    ["settle", PLACE, ...]

`unpack` makes PLACE/fs, and PLACE/tree.json for `settle`, which is given all layers of an image from the bottom to the top and
finishes those that have a tree.json. The answer is `{"diff_id": ..., "bytes": ..., "inodes": ...}`, `{}`, or `{"error": KIND,
"message": ...}` with the name of a class of `crishim.errors`. A worker ends with its stdin, and with its parent, PARENT.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from crishim.errors import CrishimError, InvalidArgument
from crishim.images.layers import renamed, settle, unpack
from crishim.images.tree import Tree
from crishim.linux.syscalls import last_error, libc

_PR_SET_PDEATHSIG: Final = 1


def main(arguments: list[str]) -> int:
    """Answer requests until stdin ends; the exit code is 0 also if answers have errors."""
    try:
        _end_with(int(arguments[0]))
    except CrishimError as error:
        print(json.dumps(_failed(error)))  # noqa: T201 - it is the protocol
        return 0
    for line in sys.stdin:
        print(json.dumps(_answer(line)), flush=True)  # noqa: T201 - the same
    return 0


def _answer(line: str) -> dict[str, Any]:
    verb, *paths = json.loads(line)
    try:
        with renamed("unpacking"):
            return _VERBS[verb]([Path(path) for path in paths])
    except CrishimError as error:
        return _failed(error)


def _failed(error: CrishimError) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": error.message}


def _end_with(parent: int) -> None:
    """Be killed when the parent ends, also if that was before this call."""
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        raise last_error("asking for a signal at the parent's end")
    if os.getppid() != parent:
        raise InvalidArgument("parent", f"{parent} is not the parent of this process")


def _unpack(paths: list[Path]) -> dict[str, Any]:
    blob, place = paths
    (place / "fs").mkdir(parents=True)
    layer = unpack(blob, place / "fs")
    (place / "tree.json").write_text(json.dumps(layer.tree.dump()), encoding="utf-8")
    return {"diff_id": layer.diff_id, "bytes": layer.bytes, "inodes": layer.inodes}


def _settle(places: list[Path]) -> dict[str, Any]:
    lowers: list[Path] = []
    for place in places:
        if (place / "tree.json").exists():
            tree = Tree.load(str(place / "fs"), json.loads((place / "tree.json").read_text(encoding="utf-8")))
            settle(tree, lowers)
            (place / "tree.json").unlink()
        lowers.insert(0, place / "fs")
    return {}


_VERBS: Final = {"unpack": _unpack, "settle": _settle}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
