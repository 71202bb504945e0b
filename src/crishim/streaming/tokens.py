"""Single-use tokens for the requests behind the URLs of the streaming server.

A token is 8 characters of URL-safe base64, 6 random bytes, no padding. It is valid once, whether the session succeeds or not,
and for one minute. At most 1000 may be outstanding; one more is `ResourceExhausted`, which gRPC's client gets
(kubernetes/cri-streaming `request_cache.go`). `now` is a monotonic clock in seconds, `random_bytes` must be fit for secrets.
"""

import base64
from collections.abc import Callable
from typing import Generic, TypeVar

from crishim.errors import Internal, NotFound, ResourceExhausted

T = TypeVar("T")

LIFETIME = 60.0
CAPACITY = 1000
_RANDOM_BYTES = 6
_DRAWS = 16


class TokenCache(Generic[T]):
    """Values behind tokens. `lifetime` is in seconds."""

    def __init__(self, random_bytes: Callable[[int], bytes], *, lifetime: float = LIFETIME, capacity: int = CAPACITY) -> None:
        self._random_bytes = random_bytes
        self._lifetime = lifetime
        self._capacity = capacity
        self._entries: dict[str, tuple[float, T]] = {}  # in the order of their expiry

    def __len__(self) -> int:
        return len(self._entries)

    def insert(self, value: T, now: float) -> str:
        """Store a value and return its token. Raises `ResourceExhausted` while too many are outstanding."""
        self._forget_expired(now)
        if len(self._entries) >= self._capacity:
            raise ResourceExhausted(f"{self._capacity} streaming requests wait for their clients; try again in a minute")
        token = self._unused_token()
        self._entries[token] = (now + self._lifetime, value)
        return token

    def consume(self, token: str, now: float) -> T:
        """Remove and return the value behind a token. Raises `NotFound` if it is unknown, used, or expired."""
        self._forget_expired(now)
        try:
            return self._entries.pop(token)[1]
        except KeyError:
            raise NotFound("streaming token", token) from None

    def _forget_expired(self, now: float) -> None:
        while self._entries:
            token, (expiry, _) = next(iter(self._entries.items()))
            if expiry > now:
                return
            del self._entries[token]

    def _unused_token(self) -> str:
        for _ in range(_DRAWS):
            token = base64.urlsafe_b64encode(self._random_bytes(_RANDOM_BYTES)).decode()
            if token not in self._entries:
                return token
        raise Internal("the source of random bytes repeats itself")
