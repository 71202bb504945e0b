"""A call that the other side has refused, as an error here, and our errors as what the other side is told (pure)."""

from crishim.errors import Code, CrishimError, DeadlineExceeded
from crishim.ttrpc.connection import Status


class TtrpcError(CrishimError):
    """The other side's answer is a status that is not OK. `status` is it; the class's own code says nothing.

    Whoever calls knows what it called for, and names the error anew where it leaves: see `crishim.shimv2.wire.messages`.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status.message or f"code {status.code}")
        self.status = status

    @property
    def answer(self) -> Code:
        """The code that was answered; UNKNOWN for a number that is none of gRPC's."""
        return Code(self.status.code) if self.status.code in _CODES else Code.UNKNOWN


def status_of(error: Exception) -> Status:
    """What a caller is told of an error of ours. Whatever is not ours is UNKNOWN with its text."""
    if isinstance(error, TtrpcError):
        return error.status
    if isinstance(error, CrishimError):
        return Status(error.code, error.message)
    if isinstance(error, TimeoutError):
        return Status(DeadlineExceeded.code, str(error) or "out of time")
    return Status(Code.UNKNOWN, f"{type(error).__name__}: {error}")


_CODES = frozenset(Code)
