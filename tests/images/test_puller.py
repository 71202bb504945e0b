import asyncio
import json
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from crishim.errors import Aborted, DataLoss, NotFound, PullError
from crishim.images.manifest import Descriptor, digest_of
from crishim.images.puller import Pulled, Puller, PullHooks
from crishim.images.reference import parse
from crishim.images.skopeo import PullSettings
from crishim.images.skopeo_process import PullProgress
from crishim.model.image import AuthConfig
from crishim.system import SystemClock

CONFIG = Descriptor("sha256:" + "a" * 64, 3)
MANIFEST = json.dumps({"config": {"digest": CONFIG.digest, "size": 3}, "layers": []}).encode()
NAME = parse("registry.example/x:1")

Make = Callable[..., Puller]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A puller over a shell script in skopeo's place, which runs in `$PLACE`; the manifest lies there as `manifest`."""

    def build(script: str, manifest: bytes = MANIFEST) -> Puller:
        for name in ("blobs", "tmp"):
            (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / "manifest").write_bytes(manifest)
        program = tmp_path / "skopeo"
        program.write_text(f"#!/bin/sh\nPLACE={tmp_path}\ncd $PLACE\n{script}\n")
        program.chmod(0o755)
        return Puller(tmp_path / "blobs", tmp_path / "tmp", SystemClock(), PullSettings(program=str(program)))

    return build


async def claim(digests: Collection[str]) -> None:
    assert set() == {digest for digest in digests if not digest.startswith("sha256:")}


def hooks(*, here: bool, progress: list[PullProgress] | None = None) -> PullHooks:
    arrived: list[Descriptor] = []
    missing: list[Collection[Descriptor]] = []
    reports = [] if progress is None else progress
    return PullHooks(has=lambda _: here, claim=claim, progress=reports.append, missing=missing.append, arrived=arrived.append)


async def pull(puller: Puller, auth: AuthConfig | None = None, *, here: bool = False) -> Pulled:
    return await puller.pull(NAME, auth, hooks(here=here))


async def test_credentials_are_in_a_file_for_the_pull_alone(make: Make, tmp_path: Path) -> None:
    """Secrets are in no argument, in a file of mode 0600 below the scratch folder, and gone with the pull."""
    puller = make(
        'echo "$@" > argv; for a in "$@"; do case $a in */auth.json) stat -c %a "$a"; cat "$a"; esac; done >seen; cat manifest'
    )
    await pull(puller, AuthConfig(username="u", password="p"), here=True)
    mode, _, content = (tmp_path / "seen").read_text().partition("\n")
    assert ("600", "dTpw") == (mode, json.loads(content)["auths"]["registry.example/x"]["auth"])
    assert False is ("dTpw" in (tmp_path / "argv").read_text())
    assert set() == names(tmp_path / "tmp")


async def test_what_is_here_is_not_copied(make: Make) -> None:
    """A digest that the caller has ends a pull after one question."""
    assert Pulled(digest_of(MANIFEST), None) == await pull(make("cat manifest"), here=True)


async def test_an_image_that_is_pushed_all_the_time(make: Make) -> None:
    """Where the copy twice is not what the registry had named just before, the pull is `Aborted`."""
    script = """
    case "$*" in *inspect*) cat manifest; exit;; esac
    for last; do :; done
    layout=${last#oci:}
    mkdir -p $layout blobs/sha256
    printf '{"config": {"digest": "sha256:%064d", "size": 1}, "layers": []}' 1 > other
    sum=$(sha256sum < other | cut -c1-64)
    cp other blobs/sha256/$sum
    printf '{"manifests": [{"digest": "sha256:%s"}]}' $sum > $layout/index.json
    """
    with pytest.raises(Aborted):
        await pull(make(script))


async def test_what_the_registry_says_is_checked(make: Make) -> None:
    """A registry that answers a pull by digest with something else is found out."""
    puller = make("cat manifest")
    reference = parse("registry.example/x@sha256:" + "b" * 64)
    with pytest.raises(DataLoss):
        await puller.pull(reference, None, hooks(here=True))


async def test_an_endless_manifest(make: Make) -> None:
    """A manifest larger than registries may serve is refused, and not loaded into memory."""
    with pytest.raises(DataLoss, match="larger"):
        await pull(make("head -c 10000000 /dev/zero"))


async def test_failures_have_the_last_line(make: Make) -> None:
    """The error text decides, however much was said before it."""
    with pytest.raises(PullError):
        await pull(make('seq 100000 >&2; echo "dial tcp: connection refused" >&2; exit 1'))
    with pytest.raises(NotFound):
        await pull(make('echo "manifest unknown" >&2; exit 1'))


async def test_a_cancelled_pull_leaves_no_process(make: Make, tmp_path: Path) -> None:
    """The process and its children have ended when the cancelled pull has ended."""
    task = asyncio.create_task(pull(make("sleep 1000 & echo $! > child; mv child pid; wait")))
    while "pid" not in names(tmp_path):  # noqa: ASYNC110 - a file sends no event
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    child = int((tmp_path / "pid").read_text())
    while alive(child):  # noqa: ASYNC110 - no event for a process that is not our child
        await asyncio.sleep(0.005)
    assert set() == names(tmp_path / "tmp")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def alive(pid: int) -> bool:
    try:
        return "Z" != Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
