"""The endpoints of an image: the mirrors and the location that a registries.conf names (pure).

containers-registries.conf(5), version 2. skopeo takes an image's manifest and all its blobs from the first endpoint that has
the manifest, and waits as long as the connection to that one stays open. So a pull tries the endpoints one by one, each with a
registries.conf that has no other: the image keeps its name, to which signature policies and credentials refer.
"""

import json
import tomllib
from collections.abc import Iterable
from typing import Any, Final

import attrs

from crishim.images.reference import Reference, is_loopback

_PULL_FROM_MIRROR: Final = {"": {"tag", "digest"}, "all": {"tag", "digest"}, "digest-only": {"digest"}, "tag-only": {"tag"}}


@attrs.frozen
class Endpoint:
    """A repository in one registry: host, port and path. `insecure` allows plain HTTP and unverified certificates."""

    repository: str
    insecure: bool


def endpoints(files: Iterable[bytes], reference: Reference) -> tuple[Endpoint, ...]:
    """The endpoints of an image in the order in which they are tried, the registry itself last.

    Later `files` override earlier ones. Empty if no mirror is configured for the image, or if skopeo is to report an error in
    the configuration.
    """
    try:
        if not (registry := _registry(files, reference)):
            return ()
        length = _matched(_prefix(registry), reference)
        mirrors = [item for item in _tables(registry.get("mirror")) if _is_for(item, registry, reference)]
        if not mirrors or registry.get("blocked") or length > len(reference.repository):
            return ()
        return tuple(_endpoint(item, reference.repository, length) for item in (*mirrors, registry))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def location(files: Iterable[bytes], reference: Reference) -> Endpoint:
    """The endpoint of an image's registry itself, in a configuration that skopeo has accepted."""
    if not (registry := _registry(files, reference)):
        return Endpoint(reference.repository, insecure=is_loopback(reference.registry))
    return _endpoint(registry, reference.repository, _matched(_prefix(registry), reference))


def registries_conf(files: Iterable[bytes], reference: Reference, endpoint: Endpoint) -> str:
    """A registries.conf by which an image comes from one endpoint. Credential helpers are those of the last file with any."""
    helpers: Any = None
    for text in files:
        helpers = tomllib.loads(text.decode()).get("credential-helpers", helpers)
    return "\n".join(
        (
            *([f"credential-helpers = {json.dumps(helpers)}"] if helpers else []),
            "[[registry]]",
            # the whole repository is the longest prefix that any other file may have
            f"prefix = {json.dumps(reference.repository)}",
            f"location = {json.dumps(endpoint.repository)}",
            f"insecure = {json.dumps(endpoint.insecure)}",
            "",
        )
    )


def _registry(files: Iterable[bytes], reference: Reference) -> dict[str, Any]:
    """The table of the longest prefix, in the last file that has it; empty if there is none."""
    registries = [item for text in files for item in _tables(tomllib.loads(text.decode()).get("registry"))]
    fitting = [(len(_prefix(item)), number) for number, item in enumerate(registries) if _matched(_prefix(item), reference)]
    return registries[max(fitting)[1]] if fitting else {}


def _tables(value: Any) -> list[dict[str, Any]]:
    return list(value or ())


def _prefix(registry: dict[str, Any]) -> str:
    return str(registry.get("prefix") or registry["location"])


def _matched(prefix: str, reference: Reference) -> int:
    """The length of the part of a reference that a prefix matches; 0 if it does not match."""
    text = str(reference)
    if prefix.startswith("*."):
        end = reference.registry.find(prefix[1:]) + len(prefix) - 1 if prefix[1:] in reference.registry else 0
    else:
        end = len(prefix) if text.startswith(prefix) else 0
    return end if text[end : end + 1] in {"", ":", "/", "@"} else 0


def _is_for(mirror: dict[str, Any], registry: dict[str, Any], reference: Reference) -> bool:
    only = "digest-only" if registry.get("mirror-by-digest-only") else ""
    return ("digest" if reference.digest else "tag") in _PULL_FROM_MIRROR[mirror.get("pull-from-mirror") or only]


def _endpoint(item: dict[str, Any], repository: str, length: int) -> Endpoint:
    location = item.get("location")
    return Endpoint(location + repository[length:] if location else repository, bool(item.get("insecure")))
