"""The chunked transfer coding (RFC 9112, section 7.1), read fast (pure).

The engine sends each entry of a log as a chunk of its own: a general parser spends more on such a chunk than all the rest of us
on the entry in it.
"""

from crishim.errors import Unavailable


class Chunks:
    """Takes the coding off. `ended` once the last chunk and its trailer have come; nothing may follow."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0
        self._in_trailer = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """The content in `data`, joined. Raises `Unavailable` for what is not chunked."""
        data = self._rest + data if self._rest else data
        start, end, made = 0, len(data), []
        while not self.ended:
            if self._left > 0:
                piece = data[start : start + self._left]
                made.append(piece)
                start += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._left = -1
            if self._left < 0:  # the line's end behind a chunk
                if end - start < 2:
                    break
                start, self._left = start + 2, 0
            line = data.find(b"\r\n", start)
            if line < 0:
                break
            start = self._head(data[start:line], line + 2)
        self._rest = data[start:]
        return b"".join(made)

    def _head(self, line: bytes, after: int) -> int:
        """A chunk's head, or a line of the trailer; answers where the next thing begins."""
        if self._in_trailer:
            self.ended = not line
            return after
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError as error:
            raise Unavailable(f"the engine broke off: {line[:20]!r} is no chunk") from error
        self._in_trailer = not self._left
        return after
