"""One pull: from a name to blobs on the disk, by two runs of skopeo.

The first asks the registry what it has under the name: the bytes of that answer are what the image's digest is of. The second
brings configuration and layers, each verified by skopeo against its digest, each into its place when it is whole, so that a
pull that was interrupted goes on with the next blob. Credentials travel in a file of mode 0600 that lives as long as the pull.
"""

import asyncio
import contextlib
import json
import logging
import os
import platform
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import Aborted, DataLoss, NotFound, PermissionDenied, PullError, PullReason, Unavailable, renaming
from crishim.images.manifest import (
    Descriptor,
    Index,
    Manifest,
    Platform,
    check,
    choose,
    digest_of,
    parse_manifest,
    this_platform,
)
from crishim.images.reference import Reference
from crishim.images.skopeo import PullSettings, auth_file, copy_command, credentials, failure, inspect_command, without_mirrors
from crishim.interfaces.seats import Clock
from crishim.linux.children import children
from crishim.model.image import AuthConfig

_log = logging.getLogger(__name__)

_POLL: Final = 0.1
_MOST_TEXT: Final = 1 << 16
_MOST_NESTED: Final = 4
_REGISTRIES_CONF: Final = "/etc/containers/registries.conf"
_MOST_MANIFEST: Final = 4 << 20
"""What registries accept and clients read of a manifest (distribution-spec, "Pushing Manifests")."""


@attrs.frozen
class PullProgress:
    """How far a pull is: bytes that are here, and bytes of all of it."""

    reference: str
    done: int
    total: int


@attrs.frozen
class Copied:
    """What was copied: a manifest, its digest, and its size in bytes. `fetched` bytes of its content were not here before."""

    digest: str
    size: int
    manifest: Manifest
    fetched: int


@attrs.frozen
class Pulled:
    """The digest of what a name stands for at the registry, and what was copied; None where it was here already."""

    digest: str
    copied: Copied | None


class Puller:
    """Runs pulls, any number beside one another. `blobs` takes content as `ALGORITHM/HEX`; `scratch` what is under way."""

    def __init__(self, blobs: Path, scratch: Path, clock: Clock, settings: PullSettings) -> None:
        self._blobs = blobs
        self._scratch = scratch
        self._clock = clock
        self._settings = settings
        self._platform = this_platform(platform.machine())

    def blob(self, digest: str) -> Path:
        """Where content of a digest is, or will be."""
        algorithm, _, digits = digest.partition(":")
        return self._blobs / algorithm / digits

    async def pull(
        self,
        reference: Reference,
        auth: AuthConfig | None,
        has: Callable[[str], bool],
        claim: Callable[[Collection[str]], Awaitable[None]],
        progress: Callable[[PullProgress], None],
        arrived: Callable[[Descriptor], None],
    ) -> Pulled:
        """Bring everything of an image into `blobs`.

        `has` is asked whether the digest that the registry named is already here: then nothing is copied. `claim` is awaited
        with every digest that the copy may have, before it is looked which are here: from then on none may be deleted.
        `arrived` is called with each layer when it is whole. Raises `NotFound`, `PermissionDenied`, `PullError`,
        `ResourceExhausted`, `DataLoss`, and `Unavailable` where skopeo is missing.
        """
        program = shutil.which(self._settings.program)
        if program is None:
            raise Unavailable(f"{self._settings.program} is not on PATH, and pulls images: apt-get install skopeo")
        settings = attrs.evolve(self._settings, program=program)
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder, renaming({OSError: Unavailable}):
            place = Path(folder)
            authfile = self._write_auth(place, reference, auth)
            caller = _Caller(has, claim, progress, arrived)
            try:
                return await self._bring(settings, reference, authfile, place, caller)
            except (NotFound, PermissionDenied, PullError, DataLoss) as error:
                upstream = await asyncio.to_thread(self._upstream, place, reference)
                if not upstream:
                    raise
                _log.warning("%s: its mirrors are left out after %s", reference, error)
                settings = attrs.evolve(settings, registries_conf=upstream)
                try:
                    return await self._bring(settings, reference, authfile, place, caller)
                except PullError as worse:
                    raise error from worse  # the registry has not answered: what the mirrors said is all there is

    async def _bring(
        self, settings: PullSettings, reference: Reference, authfile: str, place: Path, caller: "_Caller"
    ) -> Pulled:
        layout = place / "layout"
        for _ in range(2):
            shutil.rmtree(layout, ignore_errors=True)
            asked = await self._ask(settings, reference, authfile)
            if caller.has(asked.digest):
                return Pulled(asked.digest, None)
            command = copy_command(settings, asked.source, asked.platform, authfile, str(self._blobs), str(layout))
            layers = (layer.digest for layer in asked.manifest.layers)
            await caller.claim((*asked.allowed, asked.manifest.config.digest, *layers))
            missing = self._missing(asked.manifest)
            watch = _CopyProgress(str(reference), self.blob, asked.manifest, layout, caller.progress, caller.arrived)
            await self._run(command, reference, watch)
            digest, data = self._copied(layout)
            copied = parse_manifest(data)
            if digest in asked.allowed and isinstance(copied, Manifest):
                return Pulled(asked.digest, Copied(digest, len(data), copied, missing))
        raise Aborted(f"{reference} was pushed anew while it was being pulled")

    def _upstream(self, place: Path, reference: Reference) -> str:
        """A file of registries without the mirrors of this image; empty where it has none."""
        try:
            text = Path(self._settings.registries_conf or _REGISTRIES_CONF).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return ""
        without = without_mirrors(text, reference)
        if without is None:
            return ""
        path = place / "registries.conf"
        path.write_text(without, encoding="utf-8")
        return str(path)

    async def _ask(self, settings: PullSettings, reference: Reference, authfile: str) -> "_Asked":
        data = await self._run(inspect_command(settings, reference, authfile), reference, None)
        digest = reference.digest or digest_of(data)
        found = parse_manifest(check(data, digest, str(reference)))
        if isinstance(found, Manifest):
            return _Asked(digest, frozenset({digest}), None, found, reference)
        chosen = choose(found, self._platform)
        one, manifest = await self._manifest(settings, reference, chosen, authfile)
        if isinstance(manifest, Manifest) and chosen.platform:
            return _Asked(digest, frozenset(item.digest for item in found.manifests), chosen.platform, manifest, reference)
        for _ in range(_MOST_NESTED):
            if isinstance(manifest, Manifest):
                # skopeo chooses by platform, and out of one index: what it cannot find is named by its digest
                return _Asked(digest, frozenset({one.digest}), None, manifest, one)
            one, manifest = await self._manifest(settings, reference, choose(manifest, self._platform), authfile)
        raise DataLoss(f"{reference} is an index within more than {_MOST_NESTED} others")

    async def _manifest(
        self, settings: PullSettings, reference: Reference, item: Descriptor, authfile: str
    ) -> tuple[Reference, Manifest | Index]:
        """What an index leads to, and its name by digest."""
        one = attrs.evolve(reference, tag="", digest=item.digest)
        data = await self._run(inspect_command(settings, one, authfile), reference, None)
        return one, parse_manifest(check(data, item.digest, str(one)))

    def _missing(self, manifest: Manifest) -> int:
        wanted = {item.digest: item.size for item in (*manifest.layers, manifest.config)}
        return sum(size for digest, size in wanted.items() if not self.blob(digest).exists())

    def _copied(self, layout: Path) -> tuple[str, bytes]:
        index = json.loads((layout / "index.json").read_bytes())
        digest = str(index["manifests"][0]["digest"])
        return digest, check(self.blob(digest).read_bytes(), digest, "the manifest")

    def _write_auth(self, place: Path, reference: Reference, auth: AuthConfig | None) -> str:
        entry = credentials(reference, auth)
        if entry is None:
            return self._settings.authfile
        base = Path(self._settings.authfile).read_bytes() if self._settings.authfile else b""
        path = place / "auth.json"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(auth_file(base, reference, entry))
        return str(path)

    async def _run(self, command: list[str], reference: Reference, watch: "_CopyProgress | None") -> bytes:
        """Run skopeo to its end, and give its output. A run that moves nothing for too long is ended."""
        async with _process(command) as talking:
            moved, size = self._clock.monotonic(), 0
            while not talking.done():
                await self._pause(talking)
                now, before = self._clock.monotonic(), size
                if watch is not None:
                    size = await asyncio.to_thread(watch.look)
                    watch.tell()
                if size != before:
                    moved = now
                elif now - moved > self._settings.stall and not talking.done():
                    message = f"{reference}: nothing has come for {self._settings.stall:g} seconds"
                    raise PullError(PullReason.REGISTRY_UNAVAILABLE, message)
            output, text, code = talking.result()
        if code != 0:
            raise failure(text.decode(errors="replace"), reference)
        if len(output) >= _MOST_MANIFEST:
            raise DataLoss(f"{reference}: its manifest is larger than {_MOST_MANIFEST} bytes")
        return output

    async def _pause(self, talking: "asyncio.Future[tuple[bytes, bytes, int]]") -> None:
        pause = asyncio.create_task(self._clock.sleep(_POLL))
        pause.add_done_callback(lambda _: waiting.set())
        talking.add_done_callback(lambda _: waiting.set())
        waiting = asyncio.Event()
        try:
            await waiting.wait()
        finally:
            pause.cancel()


@attrs.frozen
class _Caller:
    """What `Puller.pull` asks of its caller, and tells it."""

    has: Callable[[str], bool]
    claim: Callable[[Collection[str]], Awaitable[None]]
    progress: Callable[[PullProgress], None]
    arrived: Callable[[Descriptor], None]


@attrs.frozen
class _Asked:
    """A name's digest in its registry, the digests that a copy may have, and what is to be copied by which name."""

    digest: str
    allowed: frozenset[str]
    platform: Platform | None
    manifest: Manifest
    source: Reference


class _CopyProgress:
    """Follows a copy by the sizes of its files, since skopeo says nothing on a pipe."""

    def __init__(
        self,
        reference: str,
        blob: Callable[[str], Path],
        manifest: Manifest,
        layout: Path,
        progress: Callable[[PullProgress], None],
        arrived: Callable[[Descriptor], None],
    ) -> None:
        self._reference = reference
        self._blob = blob
        self._layout = layout
        self._progress = progress
        self._arrived = arrived
        self._total = manifest.size
        self._awaited = list(dict.fromkeys((*manifest.layers, manifest.config)))
        self._config = manifest.config
        self._here: list[Descriptor] = []
        self._whole = self._partial = 0

    def look(self) -> int:
        """A number that changes when anything came. Called on a thread."""
        self._here += [item for item in self._awaited if self._blob(item.digest).exists()]
        self._awaited = [item for item in self._awaited if item not in self._here]
        partial = 0
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._layout):
                if entry.name.startswith("oci-put-blob"):
                    with contextlib.suppress(OSError):
                        partial += entry.stat().st_size
        self._partial = partial
        return self._whole + sum(item.size for item in self._here) + partial

    def tell(self) -> None:
        """Pass on what the last look saw."""
        here, self._here = self._here, []
        self._whole += sum(item.size for item in here)
        for item in here:
            if item != self._config:
                self._arrived(item)
        self._progress(PullProgress(self._reference, min(self._whole + self._partial, self._total), self._total))


@contextlib.asynccontextmanager
async def _process(command: list[str]) -> AsyncIterator["asyncio.Future[tuple[bytes, bytes, int]]"]:
    """A process in a group of its own, which outlives neither the block nor us: its output, its error text and its code."""
    pdeathsig = shutil.which("setpriv")
    starting = asyncio.create_task(
        children.start(
            *([pdeathsig, "--pdeathsig", "KILL"] if pdeathsig else []),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        _kill(await starting)
        raise
    talking = asyncio.gather(_read(process.stdout, _MOST_MANIFEST), _read(process.stderr, _MOST_TEXT), process.wait())
    try:
        yield talking
    finally:
        _kill(process)
        await asyncio.shield(talking)


def _kill(process: asyncio.subprocess.Process) -> None:
    """End a process that still runs, with its group."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def _read(stream: asyncio.StreamReader | None, most: int) -> bytes:
    """All of a stream; what is beyond `most` bytes is dropped, oldest first for texts that end with what matters."""
    data = b""
    while stream is not None and (piece := await stream.read(1 << 16)):
        data = (data + piece)[-most:]
    return data
