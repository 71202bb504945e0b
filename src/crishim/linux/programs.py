"""Finding programs: the one place that reads PATH.

execvp(3) answers EACCES for a name that no folder of PATH has, if it may not look into one of the folders. Here such a folder
has nothing, so that a missing program is told apart from one that may not be run.
"""

import os
import shutil
from collections.abc import Mapping, Sequence


def find_program(name: str, folders: Sequence[str] = (), *, env: Mapping[str, str] | None = None, cwd: str = "") -> str:
    """The path of an executable file on PATH, or else in `folders`; empty where there is none.

    PATH is that of `env`, or this process's own. A name with a slash is looked at where it is. What is relative begins at
    `cwd`.
    """
    if "/" in name:
        return shutil.which(os.path.join(cwd, name)) or ""  # noqa: PTH118 - the name's own spelling is kept
    places = (*os.get_exec_path(env), *folders)
    return shutil.which(name, path=os.pathsep.join(os.path.join(cwd, place) for place in places)) or ""  # noqa: PTH118
