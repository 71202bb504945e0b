"""The interface of skopeo: its command lines, its credentials file, and its error messages (pure).

skopeo exits with 1 for every error, so only its text tells the cause: `failure` is the one place that parses it.
"""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any, Final

import attrs

from crishim.errors import (
    CrishimError,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PullError,
    PullReason,
    ResourceExhausted,
    Unknown,
)
from crishim.images.manifest import Platform
from crishim.images.reference import Reference, canonical_registry, is_loopback
from crishim.model.image import AuthConfig

__all__ = ["PullSettings"]


class UntypedManifest(DataLoss):
    """A registry's response has a manifest without its media type as Content-Type, by which alone skopeo judges."""


@attrs.frozen(kw_only=True)
class PullSettings:
    """The settings of pulls. Empty paths leave skopeo its own defaults, which are those of containers(5).

    `registries_conf` names mirrors and insecure registries, `policy` the required signatures, and `authfile` has credentials
    for pulls without any. A pull that transfers no byte for `stall` seconds is ended.
    """

    program: str = "skopeo"
    registries_conf: str = ""
    policy: str = ""
    authfile: str = ""
    stall: float = 60.0


def inspect_command(settings: PullSettings, reference: Reference, authfile: str) -> list[str]:
    """Print the raw manifest or index of a reference."""
    return [
        *_general(settings),
        "inspect",
        "--raw",
        *(["--authfile", authfile] if authfile else []),
        *(["--tls-verify=false"] if is_loopback(reference.registry) else []),
        f"docker://{reference}",
    ]


def copy_command(
    settings: PullSettings, reference: Reference, platform: Platform | None, authfile: str, blobs: str, layout: str
) -> list[str]:
    """Copy an image into the OCI layout `layout`, its content into `blobs`, with unchanged bytes.

    The image has the reference of the request, since a signature policy may refer to tags; `platform` chooses in an index.
    skopeo leaves out layers that have URLs, as an OCI layout may.
    """
    return [
        *_copying(settings, platform),
        *_source(reference, authfile),
        "--dest-shared-blob-dir",
        blobs,
        f"docker://{reference}",
        f"oci:{layout}",
    ]


def layers_command(settings: PullSettings, reference: Reference, authfile: str, digests: Sequence[str]) -> list[str]:
    """Copy layers from the registry into a new folder of the working directory; each file is named by its digest's digits."""
    return [
        *_general(settings),
        "layers",
        *(["--authfile", authfile] if authfile else []),
        *(["--tls-verify=false"] if is_loopback(reference.registry) else []),
        f"docker://{reference}",
        *digests,
    ]


def foreign_command(
    settings: PullSettings, reference: Reference, platform: Platform | None, authfile: str, folder: str
) -> list[str]:
    """Copy an image into a folder, layers with URLs from their URLs, without credentials; each file is named by its digest's
    digits.
    """
    return [*_copying(settings, platform), *_source(reference, authfile), f"docker://{reference}", f"dir:{folder}"]


def load_command(settings: PullSettings, source: str, layout: str) -> list[str]:
    """Copy a local image into the OCI layout `layout`, without compressing layers, so that an OCI image keeps its digest.

    `source` names it with its transport (containers-transports(5)). In an index skopeo chooses by the machine's platform.
    """
    policy = ["--policy", settings.policy] if settings.policy else []
    return [*_general(settings), *policy, "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, f"oci:{layout}"]


def _copying(settings: PullSettings, platform: Platform | None) -> list[str]:
    choice = (
        [f"--override-os={platform.os}", f"--override-arch={platform.architecture}"]
        + ([f"--override-variant={platform.variant}"] if platform.variant else [])
        if platform
        else []
    )
    return [
        *_general(settings),
        *(["--policy", settings.policy] if settings.policy else []),
        *choice,
        "copy",
        "--quiet",
        "--preserve-digests",
    ]


def _source(reference: Reference, authfile: str) -> list[str]:
    return [
        *(["--src-authfile", authfile] if authfile else []),
        *(["--src-tls-verify=false"] if is_loopback(reference.registry) else []),
    ]


def credentials(reference: Reference, auth: AuthConfig | None) -> dict[str, str] | None:
    """The containers-auth.json(5) entry for a CRI request's credentials; None if there are none, or if they are for another
    registry.

    They count only if `server_address` is empty or the image's registry (as in containerd's ParseAuth). Raises
    `InvalidArgument` for a registry token, which skopeo accepts only on its command line, where every user could read it.
    """
    if auth is None or (auth.server_address and _host(auth.server_address) != reference.registry):
        return None
    if auth.registry_token:
        raise InvalidArgument("auth.registry_token", "is not supported; give a user name and a password")
    if auth.identity_token:
        return {"auth": _base64(f"{auth.username}:"), "identitytoken": auth.identity_token}
    if auth.username:
        return {"auth": _base64(f"{auth.username}:{auth.password}")}
    if auth.auth:
        try:
            pair = base64.b64decode(auth.auth, validate=True).rstrip(b"\0").decode()
        except ValueError as error:
            raise InvalidArgument("auth.auth", "is not base64 of a user name and a password") from error
        if ":" not in pair:
            raise InvalidArgument("auth.auth", "is not base64 of a user name and a password")
        return {"auth": _base64(pair)}
    return None


def auth_file(base: bytes, repository: str, entry: dict[str, str]) -> bytes:
    """The credentials file of one pull: the node's own, `base`, with `entry` for a repository before all others.

    Raises `FailedPrecondition` for a node's file that cannot be read.
    """
    try:
        top: Any = json.loads(base or b"{}")
        helpers = {key: value for key, value in (top.get("credHelpers") or {}).items() if key != repository.partition("/")[0]}
        merged = {**top, "auths": {**(top.get("auths") or {}), repository: entry}, "credHelpers": helpers}
    except (ValueError, AttributeError, TypeError) as error:
        raise FailedPrecondition("not JSON", "a containers-auth.json", "the configured authfile") from error
    return json.dumps(merged).encode()


def auth_entry(base: bytes, repository: str) -> dict[str, str] | None:
    """The entry of a credentials file for a repository: that of its longest prefix, as in containers-auth.json(5). Credential
    helpers are not asked.
    """
    try:
        entries: dict[str, dict[str, str]] = json.loads(base or b"{}").get("auths") or {}
    except (ValueError, AttributeError):
        return None
    parts = repository.split("/")
    names = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((entries[name] for name in names if entries.get(name)), None)


_NETWORK: Final = (
    "connection refused",
    "connection reset",
    "no such host",
    "server misbehaving",
    "temporary failure in name resolution",
    "network is unreachable",
    "no route to host",
    "i/o timeout",
    "tls handshake timeout",
    "context deadline exceeded",
    "client.timeout exceeded",
    "server gave http response to https client",
    "x509:",
    "tls:",
    "received unexpected http status: 5",
    "bad gateway",
    "service unavailable",
    "gateway timeout",
    "internal server error",
    "unexpected eof",
    "proxyconnect",
    ": eof",
    "toomanyrequests",
    "too many requests",
)
_SIGNATURE: Final = (
    "source image rejected",
    "is rejected by policy",
    "a signature was required",
    "signature verification failed",
    "invalid gpg signature",
)
_DENIED: Final = (
    "unauthorized",
    "authentication required",
    "invalid username/password",
    "access to the resource is denied",
    "access denied",
    "denied:",
    "403 (forbidden)",
    "403 forbidden",
    "statuscode: 401",
    "statuscode: 403",
)
_MISSING: Final = ("manifest unknown", "name unknown", "manifest_unknown", "name_unknown", "404 (not found)", "404 not found")
_MISSING_PLATFORM: Final = ("no image found in manifest list", "no image found in image index")
_MIRRORS: Final = re.compile(r"\(Mirrors also failed: (.*?\])\)", re.DOTALL)


def failure(stderr: str, reference: Reference) -> CrishimError:
    """The error in skopeo's output. The last line counts; the error of a mirror that responded precedes that of the registry,
    which the node may not even reach.
    """
    text = _message(stderr)
    match = _MIRRORS.search(text)
    mirror = _verdict(match[1], reference) if match else None
    if isinstance(mirror, NotFound | PermissionDenied):
        return mirror
    said = _verdict(text, reference)
    return said or Unknown(f"pulling {reference}: {text[:2000] or 'skopeo ended without output'}")


def _verdict(text: str, reference: Reference) -> CrishimError | None:
    low = _without_name(text, reference).lower()
    short = text[:2000]
    if "no space left on device" in low or "disk quota exceeded" in low:
        return ResourceExhausted(f"pulling {reference}: {short}")
    if "error loading trust policy" in low:
        return FailedPrecondition(
            "unreadable", "a containers-policy.json (apt-get install golang-github-containers-common)", short
        )
    if _any(_SIGNATURE, low):
        return PullError(PullReason.SIGNATURE_VALIDATION_FAILED, f"{reference}: {short}")
    if "digest did not match" in low or "digest mismatch" in low or "does not match the digest" in low:
        return DataLoss(f"pulling {reference}: {short}")
    if "unsupported schema version 2" in low:
        # skopeo takes an unknown type for docker's schema 1
        return UntypedManifest(
            f"pulling {reference}: the registry gives the manifest without its media type as Content-Type: {short}"
        )
    if _any(_DENIED, low):
        return PermissionDenied(f"pulling {reference}: {short}")
    if _any(_MISSING, low) or ("reading manifest" in low and "statuscode: 404" in low):
        return NotFound("image", str(reference), short)
    if _any(_MISSING_PLATFORM, low):
        return NotFound("an image for this platform in", str(reference), short)
    if _any(_NETWORK, low):
        return PullError(PullReason.REGISTRY_UNAVAILABLE, f"{reference}: {short}")
    return None


def _without_name(text: str, reference: Reference) -> str:
    """The text without the image's own name, which may contain words such as `access-denied`."""
    which = reference.digest or reference.tag
    for name, instead in (
        (str(reference), ""),
        (reference.repository, ""),
        (f"/v2/{reference.path}/manifests/{which}", "/v2/"),
        (f"/v2/{reference.path}/", "/v2/"),
        (f"{reference.path}:{which}", ""),
        (f"manifest {which} in", "manifest in"),
    ):
        text = text.replace(name, instead)
    return text


def _message(stderr: str) -> str:
    """The last message of skopeo's log above its debug messages, without logrus' formatting."""
    lines = [line for line in stderr.splitlines() if line.strip() and " level=debug " not in line]
    last = lines[-1] if lines else ""
    match = re.search(r'msg="((?:[^"\\]|\\.)*)"', last)
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], match[1]) if match else last


def _any(words: Sequence[str], text: str) -> bool:
    return any(word in text for word in words)


def _general(settings: PullSettings) -> list[str]:
    conf = ["--registries-conf", settings.registries_conf] if settings.registries_conf else []
    return [settings.program, "--debug", *conf]  # only the debug log has the waits for registries


def _host(address: str) -> str:
    return canonical_registry(re.sub(r"^[a-z]+://", "", address).partition("/")[0])


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
