"""The errors of this package, one class per condition.

Every error that leaves a verb of this package is a `CrishimError`, and each has the gRPC code that a CRI client receives.
The numbers are gRPC's; gRPC itself is not imported, so a backend can raise these with nothing installed. The servers (gRPC,
ttrpc, HTTP) convert `error.code` and never parse the text.

Foreign exceptions are converted where they enter, with `renaming`. `asyncio.CancelledError` is never converted.
"""

import contextlib
import enum
import errno
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Code",
    "CreateRefused",
    "CrishimError",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "PullError",
    "PullReason",
    "ResourceExhausted",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "from_os_error",
    "renaming",
]


class Code(enum.IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_HTTP_STATUS: Mapping[Code, int] = {
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 409,
    Code.ABORTED: 409,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
}


class CrishimError(Exception):
    """The base of all errors here. `message` is for people; `code` is for machines."""

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    @property
    def http_status(self) -> int:
        """The status with which the streaming server answers before an upgrade."""
        return _HTTP_STATUS.get(self.code, 500)


class Unknown(CrishimError):
    """Something raised what no contract allows; a traceback is in the log."""


class CreateRefused(Unknown):
    """An OCI runtime has refused to create a container; the message is the runtime's: a missing program, a failed mount."""


class InvalidArgument(CrishimError):
    """The request makes no sense. `field` is the CRI path of what is wrong, for instance `config.metadata`."""

    code = Code.INVALID_ARGUMENT

    def __init__(self, field: str, message: str = "is not valid") -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class NotFound(CrishimError):
    """The object does not exist. The kubelet takes this code as "removed". `reason` is the message of the engine."""

    code = Code.NOT_FOUND

    def __init__(self, kind: str, id: str, reason: str = "") -> None:  # noqa: A002 - the field's word for it
        super().__init__(f"{kind} {id!r} not found{f': {reason}' if reason else ''}")
        self.kind = kind
        self.id = id


class AlreadyExists(CrishimError):
    """A name or an id is taken."""

    code = Code.ALREADY_EXISTS

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} already exists")
        self.kind = kind
        self.name = name


class PermissionDenied(CrishimError):
    """A registry or the kernel has denied access."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(CrishimError):
    """A quota, a bound, or a disk is full."""

    code = Code.RESOURCE_EXHAUSTED


class DeadlineExceeded(CrishimError):
    """A verb or a process ran out of its time. ExecSync's clients look for this code."""

    code = Code.DEADLINE_EXCEEDED


class FailedPrecondition(CrishimError):
    """The state machine refuses: something is in `state` and would have to be in `wanted`."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, state: str, wanted: str, subject: str = "it") -> None:
        super().__init__(f"{subject} is {state}, and must be {wanted}")
        self.state = state
        self.wanted = wanted


class Aborted(CrishimError):
    """Lost a race, or was stopped by a later request; a retry may succeed at once."""

    code = Code.ABORTED


class Unimplemented(CrishimError):
    """The backend does not claim `capability`. Raised by the service; backends rarely need it."""

    code = Code.UNIMPLEMENTED

    def __init__(self, capability: str, message: str = "") -> None:
        super().__init__(message or f"{capability} is not supported by this backend")
        self.capability = capability


class Internal(CrishimError):
    """A promise of our own is broken."""

    code = Code.INTERNAL


class Unavailable(CrishimError):
    """A daemon or shim is away; a later retry may succeed."""

    code = Code.UNAVAILABLE


class DataLoss(CrishimError):
    """A record or a blob fails its check."""

    code = Code.DATA_LOSS


class PullReason(enum.StrEnum):
    """The fixed words that the kubelet compares the beginning of a message with, to name a waiting reason."""

    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    SIGNATURE_VALIDATION_FAILED = "SignatureValidationFailed"
    IMAGE_VOLUME_MOUNT_FAILED = "ImageVolumeMountFailed"
    RRO_UNSUPPORTED = "RROUnsupported"


class PullError(CrishimError):
    """An error whose message begins with one of the kubelet's fixed words.

    Its code is UNKNOWN on purpose: the kubelet's client strips that code alone and then compares the beginning of the text.
    """

    def __init__(self, reason: PullReason, message: str) -> None:
        super().__init__(f"{reason.value}: {message}")
        self.reason = reason


_REFUSALS: Final[Mapping[int, type[CrishimError]]] = {
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.EROFS: PermissionDenied,
    errno.EDQUOT: ResourceExhausted,
    errno.EFBIG: ResourceExhausted,
    errno.EMFILE: ResourceExhausted,
    errno.ENFILE: ResourceExhausted,
    errno.ENOMEM: ResourceExhausted,
    errno.ENOSPC: ResourceExhausted,
}


def from_os_error(error: OSError, what: str) -> CrishimError:
    """What a refusal of the system means, and `what` was refused: by its number, `Unknown` where that says little."""
    return _REFUSALS.get(error.errno or 0, Unknown)(f"{what}: {error.strerror or error}")


@contextlib.contextmanager
def renaming(names: Mapping[type[Exception], type[CrishimError]]) -> Iterator[None]:
    """Turn a library's exceptions into ours at the place where they enter.

    The first entry that matches wins; only classes whose sole argument is a message can stand on the right. Errors of ours and
    everything that is not named pass untouched.
    """
    try:
        yield
    except CrishimError:
        raise
    except tuple(names) as error:
        for theirs, ours in names.items():
            if isinstance(error, theirs):
                raise ours(str(error) or type(error).__name__) from error
        raise  # pragma: no cover - the except clause names exactly these classes
