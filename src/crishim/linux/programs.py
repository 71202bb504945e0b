"""Finding programs: the one place that reads PATH.

execvp(3) fails with EACCES for a name that no folder of PATH has, if one of the folders may not be read. Here such a folder is
skipped, so that a missing program is distinguished from one that may not be run.
"""

import os
import shutil
from collections.abc import Mapping, Sequence


def find_program(name: str, folders: Sequence[str] = (), *, env: Mapping[str, str] | None = None, cwd: str = "") -> str:
    """The path of an executable file on PATH, or else in `folders`; empty if there is none.

    PATH is that of `env`, or this process's own. A name with a slash is used as a path. Relative paths start at `cwd`.
    """
    if "/" in name:
        return shutil.which(os.path.join(cwd, name)) or ""  # noqa: PTH118 - the name's spelling must not change
    places = (*os.get_exec_path(env), *folders)
    return shutil.which(name, path=os.pathsep.join(os.path.join(cwd, place) for place in places)) or ""  # noqa: PTH118
