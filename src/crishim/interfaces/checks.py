"""What a machine offers a backend: findings of `crishim check`.

A plug-in may offer a function `check()` beside its `build`: it looks, changes nothing, and answers one finding for each thing
that the backend needs or can use.
"""

import attrs


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that a backend needs, or can use.

    `what` names it, `found` says what is there (a version, a path). Where it is not `ok`, `without` says what then does not
    work, and `remedy` is the command that brings it. A finding that is not `needed` is no obstacle.
    """

    what: str
    ok: bool
    needed: bool = True
    found: str = ""
    without: str = ""
    remedy: str = ""
