import base64
import json

import attrs
import pytest

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
from crishim.images.reference import parse
from crishim.images.skopeo import (
    PullSettings,
    UntypedManifest,
    auth_entry,
    auth_file,
    copy_command,
    credentials,
    failure,
    inspect_command,
)
from crishim.model.image import AuthConfig

REFERENCE = parse("registry.example/a/b:1")
SET = PullSettings(registries_conf="/r.conf", policy="/p.json")


def fatal(text: str) -> str:
    return f'time="2026-01-01T00:00:00Z" level=fatal msg="{text}"\n'


GOLDEN: list[tuple[type[CrishimError], str]] = [
    (NotFound, "initializing source docker://x/a/b:1: reading manifest 1 in x/a/b: manifest unknown: manifest unknown"),
    (NotFound, "reading manifest 1 in x/a/b: name unknown: repository name not known to registry"),
    (NotFound, "reading manifest 1 in x/a/b: StatusCode: 404 (Not Found)"),
    (NotFound, "choosing image: no image found in manifest list for architecture amd64, variant , OS linux"),
    (PermissionDenied, "reading manifest 1 in x/a/b: unauthorized: authentication required"),
    (
        PermissionDenied,
        "unable to retrieve auth token: invalid username/password: unauthorized: incorrect username or password",
    ),
    (PermissionDenied, "reading manifest 1 in x/a/b: denied: requested access to the resource is denied"),
    (PullError, 'pinging container registry x: Get \\"http://x/v2/\\": dial tcp 127.0.0.1:1: connect: connection refused'),
    (PullError, 'pinging container registry x: Get \\"https://x/v2/\\": dial tcp: lookup x on 192.0.2.1:53: no such host'),
    (PullError, 'pinging container registry x: Get \\"https://x/v2/\\": http: server gave HTTP response to HTTPS client'),
    (PullError, 'pinging container registry x: Get \\"https://x/v2/\\": x509: certificate signed by unknown authority'),
    (PullError, "reading manifest 1 in x/a/b: received unexpected HTTP status: 503 Service Unavailable"),
    (PullError, "reading manifest 1 in x/a/b: toomanyrequests: You have reached your pull rate limit."),
    (PullError, "reading blob sha256:00: unexpected EOF"),
    (ResourceExhausted, 'writing blob: storing blob to file \\"/x\\": write /x: no space left on device'),
    (DataLoss, "writing blob: Digest did not match, expected sha256:00, got sha256:11"),
    (FailedPrecondition, "Error loading trust policy: open /etc/containers/policy.json: no such file or directory"),
    (Unknown, "something else"),
    (UntypedManifest, "initializing image from source docker://r.example/a/b:1: unsupported schema version 2"),
    (NotFound, "reading manifest one in r.example/a/b: StatusCode: 404, <html>no such page</html>"),
    (PermissionDenied, "reading manifest one in r.example/a/b: StatusCode: 403, "),
    (Unknown, "reading blob sha256:6d99: fetching blob: StatusCode: 404, "),
    (PullError, "reading blob sha256:6d99: too many requests to registry"),
]

DEBUG = 'time="x" level=debug msg="Ping https://r.example/v2/ err x509: unknown authority"\n'

UNLUCKY = "127.0.0.1:5000/denied/x509-access-denied:unauthorized"


@pytest.mark.parametrize(("kind", "text"), GOLDEN)
def test_what_skopeo_says(kind: type[CrishimError], text: str) -> None:
    """Each text of skopeo's has its meaning."""
    assert kind is type(failure('time="x" level=warning msg="unauthorized"\n' + fatal(text), REFERENCE))
    assert kind is type(failure(fatal(text) + DEBUG, REFERENCE))


def test_an_image_that_is_called_like_an_error() -> None:
    """The name of the image, in each form that skopeo and registries give it, is no word of the error."""
    reference = parse(UNLUCKY)
    path, _, tag = UNLUCKY.partition("/")[2].rpartition(":")
    texts = {
        NotFound: f"reading manifest {tag} in {UNLUCKY.removesuffix(f':{tag}')}: manifest unknown: manifest unknown",
        PullError: f"pinging docker://{UNLUCKY}: Get http://127.0.0.1:5000/v2/{path}/manifests/{tag}: EOF",
        PermissionDenied: f"reading manifest {tag} in {UNLUCKY.removesuffix(f':{tag}')}: denied: no",
    }
    assert list(texts) == [type(failure(fatal(text), reference)) for text in texts.values()]


@pytest.mark.parametrize(
    "text",
    [
        "Source image rejected: Running image docker://x/a/b:1 is rejected by policy.",
        "Source image rejected: A signature was required, but no signature exists",
        "Source image rejected: Invalid GPG signature: ...",
    ],
)
def test_signatures(text: str) -> None:
    """A refusal of the policy is `SignatureValidationFailed`, at the message's beginning."""
    error = failure(fatal(text), REFERENCE)
    assert isinstance(error, PullError)
    assert (PullReason.SIGNATURE_VALIDATION_FAILED, True) == (
        error.reason,
        str(error).startswith("SignatureValidationFailed: "),
    )


@pytest.mark.parametrize(
    ("kind", "mirror"),
    [
        (NotFound, "reading manifest 1 in m/b: manifest unknown: manifest unknown"),
        (PermissionDenied, "reading manifest 1 in m/b: unauthorized: authentication required"),
        (PullError, "pinging container registry m: dial tcp 127.0.0.1:1: connect: connection refused"),
    ],
)
def test_the_words_of_a_mirror_win(kind: type[CrishimError], mirror: str) -> None:
    """What a mirror that answered says counts before an upstream that cannot be reached."""
    text = f"initializing source docker://x/a/b:1: (Mirrors also failed: [m/b:1: {mirror}]): x/a/b:1: dial tcp: no such host"
    assert kind is type(failure(fatal(text), REFERENCE))


def test_silence() -> None:
    """If skopeo exits without output, or with output that is no log line, the error has that output."""
    assert Unknown is type(failure("", REFERENCE))
    assert "a plain line" in str(failure("first\na plain line\n", REFERENCE))


def test_command_lines() -> None:
    """The image is named by its tag, everything keeps its bytes, and loopback registries need no TLS."""
    copied = copy_command(SET, REFERENCE, Platform("linux", "arm", "v7"), "/auth", "/blobs", "/layout")
    assert [
        *("skopeo", "--debug", "--registries-conf", "/r.conf", "--policy", "/p.json"),
        *("--override-os=linux", "--override-arch=arm", "--override-variant=v7"),
        *("copy", "--quiet", "--preserve-digests", "--src-authfile", "/auth", "--dest-shared-blob-dir", "/blobs"),
        *("docker://registry.example/a/b:1", "oci:/layout"),
    ] == copied
    here = parse("127.0.0.1:5000/b:1")
    assert ["skopeo", "--debug", "inspect", "--raw", "--tls-verify=false", "docker://127.0.0.1:5000/b:1"] == inspect_command(
        PullSettings(), here, ""
    )
    assert "--src-tls-verify=false" in copy_command(PullSettings(), here, None, "", "/b", "/l")


def pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("auth", "entry"),
    [
        (None, None),
        (AuthConfig(), None),
        (AuthConfig(username="u", password="p:q"), {"auth": pair("u:p:q")}),
        (AuthConfig(auth=pair("u:p\0\0")), {"auth": pair("u:p")}),
        (AuthConfig(identity_token="t"), {"auth": pair(":"), "identitytoken": "t"}),
        (AuthConfig(username="u", server_address="https://registry.example/v2/"), {"auth": pair("u:")}),
        (AuthConfig(username="u", server_address="registry.example"), {"auth": pair("u:")}),
        (AuthConfig(username="u", server_address="other.example"), None),
    ],
)
def test_credentials_of_a_request(auth: AuthConfig | None, entry: dict[str, str] | None) -> None:
    """Name and password, `auth`, or an identity token count for the image's registry alone."""
    assert entry == credentials(REFERENCE, auth)


def test_docker_hub_has_several_names() -> None:
    """Credentials for any name of Docker Hub count for images of docker.io."""
    auth = AuthConfig(username="u", server_address="https://index.docker.io/v1/")
    assert {"auth": pair("u:")} == credentials(parse("busybox"), auth)


@pytest.mark.parametrize("auth", [AuthConfig(registry_token="t"), AuthConfig(auth="%"), AuthConfig(auth=pair("no colon"))])
def test_credentials_that_cannot_be_used(auth: AuthConfig) -> None:
    """A registry token, and an `auth` that is no pair in base64, are refused, and the message has no secret in it."""
    with pytest.raises(InvalidArgument) as caught:
        credentials(REFERENCE, auth)
    assert not [secret for secret in attrs.astuple(auth) if len(secret) > 1 and secret in str(caught.value)]


def test_the_file_of_credentials() -> None:
    """A request's credentials stand under the whole repository, before the node's own, and no helper hides them."""
    base = {"auths": {"registry.example": {"auth": "old"}}, "credHelpers": {"registry.example": "x", "other.example": "y"}}
    assert {
        "auths": {"registry.example": {"auth": "old"}, "registry.example/a/b": {"auth": "new"}},
        "credHelpers": {"other.example": "y"},
    } == json.loads(auth_file(json.dumps(base).encode(), REFERENCE.repository, {"auth": "new"}))
    for broken in (b"{", b"[]", b'{"auths": 3}'):
        with pytest.raises(FailedPrecondition):
            auth_file(broken, REFERENCE.repository, {"auth": "new"})


@pytest.mark.parametrize(
    ("repository", "expected"),
    [("r.example/a/b", "two"), ("r.example/a", "two"), ("r.example/c", "one"), ("other.example/a", None)],
)
def test_the_entry_of_a_repository(repository: str, expected: str | None) -> None:
    """The entry of the longest prefix counts, as in containers-auth.json(5)."""
    base = json.dumps({"auths": {"r.example": {"auth": "one"}, "r.example/a": {"auth": "two"}}}).encode()
    assert ({"auth": expected} if expected else None) == auth_entry(base, repository)
    assert auth_entry(b"", repository) is None
