"""Pulls one image: from a reference to blobs on the disk, by two runs of skopeo for each endpoint that is tried.

The first run gets the manifest or index of the reference, whose bytes determine the image's digest. The second downloads
configuration and layers; skopeo verifies each against its digest and moves it to its place when it is complete, so that an
interrupted pull continues with the next blob, from any endpoint. Credentials are in a file of mode 0600 that exists during the
pull only.
"""

import asyncio
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import (
    Aborted,
    CrishimError,
    DataLoss,
    NotFound,
    PermissionDenied,
    PullError,
    PullReason,
    ResourceExhausted,
    Unavailable,
    Unknown,
    renaming,
)
from crishim.images.downloads import WAITING, Downloads
from crishim.images.endpoints import Endpoint, endpoints, location, registries_conf
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
from crishim.images.relay import relay
from crishim.images.skopeo import (
    PullSettings,
    UntypedManifest,
    auth_entry,
    auth_file,
    copy_command,
    credentials,
    failure,
    foreign_command,
    inspect_command,
    layers_command,
)
from crishim.images.skopeo_process import MAX_OUTPUT, CopyWatch, FolderWatch, PullProgress, Watch, run, with_program
from crishim.interfaces.seats import Clock
from crishim.model.image import AuthConfig

_MAX_NESTED: Final = 4
_CONF: Final = "containers/registries.conf"

_log = logging.getLogger(__name__)


@attrs.frozen
class Copied:
    """A copied image: its manifest, digest, and size in bytes. `fetched` bytes of its content were downloaded."""

    digest: str
    size: int
    manifest: Manifest
    fetched: int


@attrs.frozen
class Pulled:
    """The digest of the reference in its registry, and the copied image; None if it was present already."""

    digest: str
    copied: Copied | None


@attrs.frozen(kw_only=True)
class PullHooks:
    """What a pull calls, all on the event loop.

    `has` tells whether the digest that the registry named is present: then nothing is copied. `claim` is awaited with every
    digest that the copy may have, before the pull checks which are present: from then on none may be deleted. `missing` is
    called with the blobs that are about to be downloaded. `arrived` is called with each complete layer; after a failure of one
    endpoint it may be called with the same layer again.
    """

    has: Callable[[str], bool]
    claim: Callable[[Collection[str]], Awaitable[None]]
    progress: Callable[[PullProgress], None]
    missing: Callable[[Collection[Descriptor]], None]
    arrived: Callable[[Descriptor], None]


class Puller:
    """Runs pulls concurrently. `blobs` receives content as `ALGORITHM/HEX`; `scratch` has the work in progress."""

    def __init__(self, blobs: Path, scratch: Path, clock: Clock, settings: PullSettings) -> None:
        self._blobs = blobs
        self._scratch = scratch
        self._clock = clock
        self._settings = settings
        self._platform = this_platform(platform.machine())
        self._downloads = Downloads()

    async def pull(self, reference: Reference, auth: AuthConfig | None, hooks: PullHooks) -> Pulled:
        """Download an image into `blobs`, from the first endpoint that has all of it: its mirrors, then its registry.

        Raises `NotFound`, `PermissionDenied`, `PullError`, `ResourceExhausted` for a full disk, `DataLoss`, and `Unavailable`
        if skopeo is missing.
        """
        settings = with_program(self._settings)
        with tempfile.TemporaryDirectory(dir=self._scratch) as name, renaming({OSError: Unavailable}):
            folder = Path(name)
            authfile = self._write_auth(folder, reference, auth)
            files = await asyncio.to_thread(_registries_files, settings.registries_conf)
            failures: list[tuple[str, CrishimError]] = []
            for number, endpoint in enumerate(endpoints(files, reference) or (None,)):
                place = folder / str(number)
                place.mkdir()
                attempt = _Attempt(
                    settings=_settings_for(settings, reference, endpoint, files, place),
                    reference=reference,
                    subject=f"{reference} from {endpoint.repository}" if endpoint else str(reference),
                    authfile=authfile,
                    place=place,
                    blobs=self._blobs,
                    platform=self._platform,
                    clock=self._clock,
                    downloads=self._downloads,
                    hooks=hooks,
                )
                try:
                    try:
                        return await attempt.pull()
                    except UntypedManifest:
                        _log.info("%s has no media type; it is pulled again through a relay that adds it", attempt.subject)
                        return await _through_relay(attempt, files, endpoint)
                except ResourceExhausted:
                    raise
                except CrishimError as error:
                    failures.append((endpoint.repository if endpoint else "", error))
                    _log.debug("pulling %s: %s", attempt.subject, error)
            raise _verdict(failures)

    def _write_auth(self, place: Path, reference: Reference, auth: AuthConfig | None) -> str:
        entry = credentials(reference, auth)
        if entry is None:
            return self._settings.authfile
        base = Path(self._settings.authfile).read_bytes() if self._settings.authfile else b""
        return _write_private(place / "auth.json", auth_file(base, reference.repository, entry))


def _registries_files(configured: str) -> list[bytes]:
    """The files that skopeo reads, later ones overriding: the configured, a user's or the node's, and those of two folders."""
    user, node = Path(os.environ.get("HOME") or "/nonexistent") / ".config" / _CONF, Path("/etc") / _CONF
    main = Path(configured) if configured else user if user.exists() else node
    more = [file for conf in (node, user) for file in sorted(conf.with_name(conf.name + ".d").glob("*.conf"))]
    return [file.read_bytes() for file in (main, *more) if file.is_file()]


def _settings_for(
    settings: PullSettings, reference: Reference, endpoint: Endpoint | None, files: Sequence[bytes], place: Path
) -> PullSettings:
    """The settings for one endpoint. Without an endpoint, skopeo reads its own configuration."""
    if endpoint is None:
        return settings
    conf = place / "registries.conf"
    conf.write_text(registries_conf(files, reference, endpoint), encoding="utf-8")
    return attrs.evolve(settings, registries_conf=str(conf))


def _verdict(failures: Sequence[tuple[str, CrishimError]]) -> CrishimError:
    """The error of a pull: the registry's own, or a mirror's definite one if the registry could not be reached."""
    error = failures[-1][1]
    if isinstance(error, Unknown) or (isinstance(error, PullError) and error.reason is PullReason.REGISTRY_UNAVAILABLE):
        error = next((other for _, other in failures if isinstance(other, NotFound | PermissionDenied)), error)
    others = [f"{where}: {other.message[:300]}" for where, other in failures if other is not error]
    if others:
        error.message = f"{error.message} (other endpoints failed, too: {'; '.join(others)})"
        error.args = (error.message,)
    return error


async def _through_relay(attempt: "_Attempt", files: Sequence[bytes], endpoint: Endpoint | None) -> Pulled:
    """Repeat an attempt at a registry whose manifests have no media type."""
    reference = attempt.reference
    origin = endpoint or location(files, reference)
    place = attempt.place / "relayed"
    place.mkdir()
    async with relay(origin) as there:
        authfile = _relayed_auth(attempt.authfile, place, origin, there)
        settings = _settings_for(attempt.settings, reference, there, files, place)
        return await attrs.evolve(attempt, settings=settings, authfile=authfile, place=place).pull()


def _relayed_auth(authfile: str, place: Path, origin: Endpoint, there: Endpoint) -> str:
    """A credentials file that has the entry of a repository for its relay, too: skopeo looks it up by the address it dials."""
    base = Path(authfile).read_bytes() if authfile else b""
    entry = auth_entry(base, origin.repository)
    return _write_private(place / "auth.json", auth_file(base, there.repository, entry)) if entry else authfile


def _write_private(path: Path, data: bytes) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return str(path)


@attrs.frozen(kw_only=True)
class _Attempt:
    """A pull from one endpoint. `subject` names both in messages, `place` is a folder for work in progress."""

    settings: PullSettings
    reference: Reference
    subject: str
    authfile: str
    place: Path
    blobs: Path
    platform: Platform
    clock: Clock
    downloads: Downloads
    hooks: PullHooks

    async def pull(self) -> Pulled:
        """See `Puller.pull`."""
        for _ in range(2):
            resolved = await self._ask()
            if self.hooks.has(resolved.digest):
                return Pulled(resolved.digest, None)
            layout = self.place / "layout"
            command = copy_command(
                self.settings, resolved.source, resolved.platform, self.authfile, str(self.blobs), str(layout)
            )
            await self.hooks.claim(
                (*resolved.allowed, resolved.manifest.config.digest, *(layer.digest for layer in resolved.manifest.layers))
            )
            fetched = await self._copy(command, resolved.manifest, layout)
            digest, data = self._copied(layout)
            copied = parse_manifest(data)
            if digest in resolved.allowed and isinstance(copied, Manifest):
                await self._fetch_foreign(resolved, copied)
                return Pulled(resolved.digest, Copied(digest, len(data), copied, fetched))
            shutil.rmtree(layout)
        raise Aborted(f"{self.subject} was pushed again while it was being pulled")

    async def _copy(self, command: list[str], manifest: Manifest, layout: Path) -> int:
        """Copy what is missing of an image, but for the blobs that other pulls download meanwhile; return its bytes."""
        hooks = self.hooks
        await self.downloads.others(
            lambda: self._missing(manifest),
            lambda: hooks.progress(PullProgress(str(self.reference), 0, manifest.size, WAITING)),
        )
        missing = self._missing(manifest)
        hooks.missing(missing)
        with self.downloads.claimed(missing) as ended:

            def arrived(layer: Descriptor) -> None:
                ended(layer)
                hooks.arrived(layer)

            await self._run(command, CopyWatch(str(self.reference), hooks.progress, self._blob, manifest, layout, arrived))
        return sum(item.size for item in missing)

    async def _ask(self) -> "_Asked":
        data = await self._inspect(self.reference)
        digest = self.reference.digest or digest_of(data)
        root = parse_manifest(check(data, digest, self.subject))
        if isinstance(root, Manifest):
            return _Asked(digest, frozenset({digest}), None, root, self.reference)
        chosen = choose(root, self.platform)
        one, manifest = await self._manifest(chosen)
        if isinstance(manifest, Manifest) and chosen.platform:
            return _Asked(digest, frozenset(item.digest for item in root.manifests), chosen.platform, manifest, self.reference)
        for _ in range(_MAX_NESTED):
            if isinstance(manifest, Manifest):
                # skopeo chooses by platform, and only in one index: what it cannot find is named by its digest
                return _Asked(digest, frozenset({one.digest}), None, manifest, one)
            one, manifest = await self._manifest(choose(manifest, self.platform))
        raise DataLoss(f"{self.subject} is an index within more than {_MAX_NESTED} others")

    async def _manifest(self, item: Descriptor) -> tuple[Reference, Manifest | Index]:
        """Inspect an entry of an index; return its reference by digest, and its manifest or index."""
        one = attrs.evolve(self.reference, tag="", digest=item.digest)
        return one, parse_manifest(check(await self._inspect(one), item.digest, str(one)))

    async def _inspect(self, reference: Reference) -> bytes:
        command = inspect_command(self.settings, reference, self.authfile)
        return await self._run(command, Watch(str(self.reference), self.hooks.progress))

    async def _run(self, command: list[str], watch: Watch, cwd: Path | None = None) -> bytes:
        """Run skopeo to its end, and return its output."""
        ended = await run(command, self.subject, self.settings.stall, self.clock, watch, cwd=cwd)
        if ended.code != 0:
            raise failure(ended.log, self.reference)
        if len(ended.output) >= MAX_OUTPUT:
            raise DataLoss(f"{self.subject}: its manifest is larger than {MAX_OUTPUT} bytes")
        return ended.output

    async def _fetch_foreign(self, resolved: "_Asked", manifest: Manifest) -> None:
        """Download the layers that have URLs, which a copy leaves out: from the registry if it has them, else from the URLs."""
        missing = [layer.digest for layer in manifest.layers if not self._blob(layer.digest).exists()]
        if not missing:
            return
        folder = self.place / "foreign"
        folder.mkdir()
        watch = FolderWatch(str(self.reference), self.hooks.progress, folder)
        try:
            await self._run(layers_command(self.settings, resolved.source, self.authfile, missing), watch, folder)
        except ResourceExhausted:
            raise
        except CrishimError as error:
            _log.debug("layers of %s come from their URLs, not from the registry: %s", self.subject, error)
            target = str(folder / "image")
            command = foreign_command(self.settings, resolved.source, resolved.platform, self.authfile, target)
            await self._run(command, watch, folder)
        await asyncio.to_thread(self._take_in, folder, missing)

    def _take_in(self, folder: Path, digests: Sequence[str]) -> None:
        files = {path.name: path for path in folder.glob("*/*")}
        for digest in digests:
            path = files.get(digest.partition(":")[2])
            if path is None:
                raise DataLoss(f"{self.subject}: neither the registry nor a URL has the layer {digest}")
            with path.open("rb") as file:
                if digest.partition(":")[2] != hashlib.file_digest(file, digest.partition(":")[0]).hexdigest():
                    raise DataLoss(f"{self.subject}: the downloaded layer does not have the digest {digest}")
            self._blob(digest).parent.mkdir(exist_ok=True)
            path.rename(self._blob(digest))

    def _blob(self, digest: str) -> Path:
        algorithm, _, digits = digest.partition(":")
        return self.blobs / algorithm / digits

    def _missing(self, manifest: Manifest) -> list[Descriptor]:
        items = {item.digest: item for item in (*manifest.layers, manifest.config)}
        return [item for item in items.values() if not self._blob(item.digest).exists()]

    def _copied(self, layout: Path) -> tuple[str, bytes]:
        index = json.loads((layout / "index.json").read_bytes())
        digest = str(index["manifests"][0]["digest"])
        return digest, check(self._blob(digest).read_bytes(), digest, "the manifest")


@attrs.frozen
class _Asked:
    """A resolved reference: its digest in the registry, the digests that a copy may have, and what to copy by which
    reference.
    """

    digest: str
    allowed: frozenset[str]
    platform: Platform | None
    manifest: Manifest
    source: Reference
