"""How long a container that has ended waits for its next start (pure)."""

from typing import Final

FIRST: Final = 10.0
MOST: Final = 300.0
_FORGET: Final = 2 * MOST


class BackOff:
    """No pause at first, then ten seconds, doubled up to five minutes; forgotten after ten minutes without an end."""

    def __init__(self) -> None:
        self._next = FIRST
        self._last: float | None = None

    def pause(self, ended: float) -> float:
        """Seconds to wait after an end at `ended`, in seconds of any clock that never goes back."""
        if self._last is None or ended - self._last > _FORGET:
            pause, self._next = 0.0, FIRST
        else:
            pause, self._next = self._next, min(2 * self._next, MOST)
        self._last = ended + pause
        return pause
