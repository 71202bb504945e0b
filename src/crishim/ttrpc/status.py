"""Conversion between ttrpc's statuses and this library's errors (pure)."""

from crishim.errors import Code, CrishimError, DeadlineExceeded
from crishim.ttrpc.connection import Status

__all__ = ["TtrpcError", "status_of"]


class TtrpcError(CrishimError):
    """The peer has responded with a status that is not OK, which is `status`; the class's own code has no meaning.

    Callers convert it to an error that names the object of the call: see `crishim.shimv2.wire.messages`.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status.message or f"code {status.code}")
        self.status = status

    @property
    def answer(self) -> Code:
        """The code of the response; UNKNOWN for a number that is not one of gRPC's."""
        return Code(self.status.code) if self.status.code in _CODES else Code.UNKNOWN


def status_of(error: Exception) -> Status:
    """The status that the peer receives for an error. An error that is not of this library is UNKNOWN with its text."""
    if isinstance(error, TtrpcError):
        return error.status
    if isinstance(error, CrishimError):
        return Status(error.code, error.message)
    if isinstance(error, TimeoutError):
        return Status(DeadlineExceeded.code, str(error) or "deadline exceeded")
    return Status(Code.UNKNOWN, f"{type(error).__name__}: {error}")


_CODES = frozenset(Code)
