"""Entries of a log that the engine tells twice (pure).

An engine that follows its own log across a rotation may begin again a little before the place where it was. Such a repetition
goes back in time, to entries that were just told; a clock that was set back does so too, but tells new ones.
"""

import collections
from typing import Final

from crishim.backends.docker.frames import Entry
from crishim.logs.lines import Stream

KEPT: Final = 1 << 14
"""How many entries are remembered."""


class Repeats:
    """Knows the entries that were told last."""

    def __init__(self, kept: int = KEPT) -> None:
        self._order: collections.deque[int] = collections.deque(maxlen=kept)
        self._told: collections.Counter[int] = collections.Counter()
        self._last: dict[Stream, int] = {}
        self._going_back = False

    def again(self, entry: Entry) -> bool:
        """Whether this entry is a repetition. Pieces of one line share their time, and are none."""
        mark = hash((entry.stream, entry.time, entry.content))
        back = self._going_back or entry.time < self._last.get(entry.stream, 0)
        if back and mark in self._told:
            self._going_back = True
            return True
        self._going_back = False
        self._last[entry.stream] = entry.time
        self._remember(mark)
        return False

    def _remember(self, mark: int) -> None:
        if len(self._order) == self._order.maxlen:
            oldest = self._order[0]
            self._told[oldest] -= 1
            if not self._told[oldest]:
                del self._told[oldest]
        self._order.append(mark)
        self._told[mark] += 1
