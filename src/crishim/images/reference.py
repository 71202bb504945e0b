"""Parses image references (pure).

The grammar and the meaning of short names are those of github.com/distribution/reference (regexp.go, normalize.go): without a
registry it is docker.io, one path component there is in library/, without a tag or digest it is `latest`. If a reference has
both, the digest counts and the tag is dropped.
"""

import re
from typing import Final

import attrs

from crishim.errors import InvalidArgument

DEFAULT_REGISTRY: Final = "docker.io"
_DOCKER_HOSTS: Final = frozenset({"index.docker.io", "registry-1.docker.io", "registry.docker.io"})
_LONGEST: Final = 255

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}")
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")
_BARE_ID: Final = re.compile(r"[0-9a-f]{64}")
_ID_PREFIX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


@attrs.frozen
class Reference:
    """A full reference: registry, path, and either a tag or a digest."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Registry and path, the first part of repo tags and repo digests."""
        return f"{self.registry}/{self.path}"

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def parse(text: str) -> Reference:
    """The full reference for `text`. Raises `InvalidArgument` if it is invalid, and for image ids."""
    if _BARE_ID.fullmatch(text) or _SHA256.fullmatch(text):
        raise _refused(text, "is an image's id and not a name")
    name, at, digest = text.partition("@")
    if at and not valid_digest(digest):
        raise _refused(text, "has an invalid digest")
    first, slash, rest = name.partition("/")
    if not slash or not _is_registry(first):
        first, rest = DEFAULT_REGISTRY, name
    path, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _refused(text, "has an invalid tag")
    registry = canonical_registry(first)
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    if not _DOMAIN.fullmatch(registry) or not _PATH.fullmatch(path):
        raise _refused(text, "is not an image reference")
    if len(f"{registry}/{path}") > _LONGEST:
        raise _refused(text, f"is longer than {_LONGEST} characters")
    return Reference(registry, path, digest=digest) if digest else Reference(registry, path, tag=tag or "latest")


def valid_digest(text: str) -> bool:
    """Whether `text` is `algorithm:hex`; with sha256, of exactly 64 lower-case digits."""
    if text.startswith("sha256:"):
        return _SHA256.fullmatch(text) is not None
    return _DIGEST.fullmatch(text) is not None


def id_prefix(text: str) -> str:
    """`sha256:` and the digits of a possible image id or prefix of one; empty for any other text."""
    match = _ID_PREFIX.fullmatch(text)
    return f"sha256:{match[1]}" if match else ""


def canonical_registry(host: str) -> str:
    """One name for each registry: Docker Hub has several."""
    return DEFAULT_REGISTRY if host in _DOCKER_HOSTS else host


def is_loopback(registry: str) -> bool:
    """Whether a registry is on this machine, where plain HTTP is allowed (as in docker and containerd)."""
    host = registry.rpartition(":")[0] if re.search(r":[0-9]+$", registry) else registry
    return host in {"localhost", "[::1]"} or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", host) is not None


def _is_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


def _refused(text: str, why: str) -> InvalidArgument:
    return InvalidArgument("image.image", f"{text[:100]!r} {why}")
