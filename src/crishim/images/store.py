"""The image store: CRI's image service and the containers' root file systems, over one folder of the node.

Lists and statuses are answered from memory. Concurrent pulls of one reference with the same credentials share the work, and
pulls of one reference are otherwise serialized; a pull continues if its caller stops waiting. Layers are unpacked as they
arrive, in worker processes.
"""

import asyncio
import contextlib
import json
import logging
import shutil
import weakref
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import CrishimError, InvalidArgument, NotFound
from crishim.images.content import Content
from crishim.images.loading import Loader
from crishim.images.manifest import Configuration, Descriptor, chain_ids
from crishim.images.puller import Copied, Puller, PullHooks
from crishim.images.reference import Reference, id_prefix, parse
from crishim.images.skopeo import PullSettings
from crishim.images.skopeo_process import PullProgress
from crishim.images.snapshots import Snapshots
from crishim.images.table import ImageEntry, find, named, pinned, shown
from crishim.images.unpacking import Unpacking, Workers
from crishim.interfaces.seats import Clock, ImageService, NoObserver, Observer, Rootfs, RootfsProvider, SupportsRootfsDiff
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageConfig, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import ContainerId, FrozenDict, ImageId

__all__ = ["ContentStore"]

_USAGE_AGE: Final = 10.0
_USAGE_SHARE: Final = 20.0
_SECOND: Final = 10**9

_log = logging.getLogger(__name__)


def _ignore(_: PullProgress) -> None:
    pass


@attrs.frozen
class _Usage:
    """A measurement of a writable layer: bytes, inodes, its time (nanoseconds since the epoch), and until when it
    may be used.
    """

    bytes: int
    inodes: int
    taken: int
    good_until: float


class ContentStore(ImageService, RootfsProvider, SupportsRootfsDiff):
    """A store in `folder`. Constructing it reads the index and deletes leftovers of a crash, and blocks meanwhile. Must be
    closed.

    `pinned` are patterns of names (`*`, `?`) of images that the kubelet must not garbage-collect; `progress` is called with
    the progress of pulls, on the event loop. Raises `FailedPrecondition` while another process uses the folder, and `DataLoss`
    for an invalid index.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        settings: PullSettings = PullSettings(),  # noqa: B008 - a frozen value
        *,
        pinned: tuple[str, ...] = (),
        progress: Callable[[PullProgress], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._clock = clock
        self._pinned = pinned
        self._progress = progress or _ignore
        self._observer = observer or NoObserver()
        self._content = Content(folder)
        self._claims: set[_Claim] = set()
        try:
            self._table, self._configs, complaints = self._content.load()
            self._snapshots = Snapshots(self._content.snapshots, self._content.tmp, self._content.layer)
            self._content.sweep(*self._needed(), (), self._clock.now() / _SECOND)()
        except BaseException:
            self._content.close()
            raise
        for complaint in complaints:
            _log.warning("%s", complaint)
        self._settings = settings
        self._puller = Puller(self._content.blobs, self._content.tmp, clock, settings)
        self._workers = Workers()
        self._pulls: dict[tuple[Reference, AuthConfig | None], asyncio.Task[ImageId]] = {}
        self._locks: weakref.WeakValueDictionary[Reference, asyncio.Lock] = weakref.WeakValueDictionary()
        self._gate = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._doomed: set[str] = set()
        self._checkpoints: dict[str, bool] = {}
        self._usages: dict[ContainerId, _Usage] = {}
        self._measuring: dict[ContainerId, asyncio.Task[_Usage]] = {}

    async def close(self) -> None:
        """Cancel pulls that are under way; mounts stay."""
        for task in list(self._pulls.values()):
            task.cancel()
        await asyncio.gather(*self._pulls.values(), *self._measuring.values(), return_exceptions=True)
        self._content.close()

    async def list(self) -> tuple[Image, ...]:
        """All images."""
        return tuple(self._shown(entry) for entry in self._table.values())

    async def status(self, image: ImageSpec) -> ImageDetail | None:
        """One image. `info` has the configuration and the chain id, as `crictl inspecti` shows them."""
        entry = find(self._table, image.image)
        if entry is None:
            return None
        config = self._configs[entry.id]
        verbose: dict[str, Any] = {
            "chainID": entry.layers[-1] if entry.layers else "",
            "manifest": entry.manifest,
            "platform": str(config.platform),
            "layers": config.diff_ids,
        }
        if entry.manifest not in self._checkpoints:
            with contextlib.suppress(CrishimError, OSError):  # one that cannot be read is none
                self._checkpoints[entry.manifest] = await asyncio.to_thread(self._content.is_checkpoint, entry)
        return ImageDetail(
            image=self._shown(entry),
            config=config.config,
            info=FrozenDict({"info": json.dumps(verbose)}),
            is_checkpoint=self._checkpoints.get(entry.manifest, False),
        )

    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:  # noqa: ARG002
        """Pull an image. An id cannot be pulled: it is returned if the image is present, else `NotFound` is raised.

        Raises also `InvalidArgument`, `DataLoss`, `ResourceExhausted` for a full disk, and `Unavailable` without skopeo.
        """
        if len(id_prefix(image.image)) == len("sha256:") + 64:
            if (entry := find(self._table, image.image)) is None:
                raise NotFound("image", image.image)
            return entry.id
        reference = parse(image.image)
        key = (reference, auth)
        task = self._pulls.get(key)
        if task is None:
            task = asyncio.create_task(self._pull(reference, auth), name=f"pull {reference}")
            self._pulls[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def load(self, source: str | Path, name: str, config: ImageConfig | None = None) -> ImageId:
        """Add an image from local files under the tag `name`, without a registry, and return its id.

        `source` is a folder or a tar file (plain, gzip, zstd): a root file system, which becomes an image of one layer with the
        defaults of `config`; or an OCI layout, or an archive of `docker save` or `skopeo copy`, with one image. A string may
        also name an image as skopeo does (`oci-archive:/a.tar:tag`). Equal content has the same id. What is mounted below a
        folder is left out.

        Raises `InvalidArgument` for an invalid name, and for a `config` beside an image that has its own; `NotFound`;
        `DataLoss` for what cannot be read as an image; `PermissionDenied`; `Aborted` for a folder that changes meanwhile;
        `ResourceExhausted` for a full disk; `Unavailable` if skopeo is missing for an archive, or tar for a folder; `Unknown`
        for another failure of tar. To be awaited before `close`.
        """
        reference = parse(name)
        if reference.digest:
            raise InvalidArgument("name", "must be a tag: a digest is that of the image")
        async with self._adding(reference) as (job, claim):
            place = await asyncio.to_thread(self._content.work)
            try:
                loader = Loader(
                    settings=self._settings,
                    clock=self._clock,
                    source=str(source),
                    reference=reference,
                    config=config,
                    place=place,
                )
                blobs, copied = await loader.load()
                digests = (copied.digest, copied.manifest.config.digest, *(layer.digest for layer in copied.manifest.layers))
                async with self._gate:
                    claim.blobs.update(digests)
                await asyncio.to_thread(self._content.take_in, blobs, digests)
            finally:
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))
            return await self._name(*await self._unpack(copied, job, claim), reference, copied.digest)

    async def remove(self, image: ImageSpec) -> None:
        """Remove an image with all its names. Layers that containers use stay until these are removed."""
        async with self._writing:
            entry = find(self._table, image.image)
            if entry is None:
                return
            table = {key: other for key, other in self._table.items() if key != entry.id}
            await asyncio.to_thread(self._content.save, table)
            self._table = table
            del self._configs[entry.id]
            self._doomed.update(entry.blobs)
        await self._sweep()

    async def fs_info(self) -> ImageFsInfo:
        """One file system: unpacked layers, and their blobs."""
        blobs = {blob for entry in self._table.values() for blob in entry.blobs}
        sizes = tuple(self._content.sizes.values())
        usage = FilesystemUsage(
            timestamp=self._clock.now(),
            mountpoint=str(self._content.folder),
            used_bytes=sum(size.bytes for size in sizes) + sum(entry.size for entry in self._table.values()),
            inodes_used=sum(size.inodes for size in sizes) + len(blobs),
        )
        return ImageFsInfo(image_filesystems=(usage,))

    async def prepare(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Rootfs:
        """A writable root over an image. Raises `NotFound` if the image is not present and the container has no root yet."""
        if not self._snapshots.has_root(container_id):
            self._snapshots.hold(container_id, self._layers(image_id))
        return await asyncio.to_thread(self._snapshots.prepare, container_id, userns, label)

    async def apply(self, container_id: ContainerId, image_id: ImageId, layer: Path) -> None:
        """As `SupportsRootfsDiff.apply`: a worker unpacks the layer, and it becomes the upper folder of the root."""
        layers = self._layers(image_id)
        self._snapshots.hold(container_id, layers)
        place = self._snapshots.fresh(container_id)
        self._workers.open()
        try:
            await self._workers.unpack(layer, place)
            await self._workers.settle((*(self._content.layer(one).parent for one in layers), place))
        finally:
            await asyncio.shield(self._workers.close())
        await asyncio.to_thread(self._snapshots.begin_with, container_id, place / "fs")

    async def release(self, container_id: ContainerId) -> None:
        """Unmount and delete a container's root and its views."""
        self._usages.pop(container_id, None)
        await asyncio.to_thread(self._snapshots.release, container_id)
        layers, _ = self._needed()
        if self._content.sizes.keys() - layers:
            await self._sweep()

    async def view(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Path:
        """A read-only mount of an image for an image volume of a container, which `release` unmounts.

        A repeated call returns the same folder. Raises `NotFound` for an image that is not present.
        """
        return await asyncio.to_thread(self._snapshots.view, container_id, image_id, self._layers(image_id), userns, label)

    async def unview(self, container_id: ContainerId, image_id: ImageId) -> None:
        """Unmount one view. One that does not exist is no error."""
        await asyncio.to_thread(self._snapshots.unview, container_id, image_id)

    def prepared(self) -> tuple[ContainerId, ...]:
        """The containers with a root or views in the store, so that those without a record can be released."""
        return self._snapshots.containers

    async def usage(self, container_id: ContainerId) -> FilesystemUsage:
        """The disk usage of what a container wrote. Measured at most every 10 seconds, and less often if measuring takes long.

        Raises `NotFound` for a container without a root in the store.
        """
        known = self._usages.get(container_id)
        if known is None or self._clock.monotonic() >= known.good_until:
            task = self._measuring.get(container_id)
            if task is None:
                task = asyncio.create_task(self._measure(container_id))
                self._measuring[container_id] = task
                task.add_done_callback(lambda _: self._measuring.pop(container_id, None))
            known = await asyncio.shield(task)
        return FilesystemUsage(
            timestamp=known.taken,
            mountpoint=str(self._content.snapshots),
            used_bytes=known.bytes,
            inodes_used=known.inodes,
        )

    async def _measure(self, container_id: ContainerId) -> _Usage:
        start = self._clock.monotonic()
        used, inodes = await asyncio.to_thread(self._snapshots.usage, container_id)
        end = self._clock.monotonic()
        known = _Usage(used, inodes, self._clock.now(), end + max(_USAGE_AGE, _USAGE_SHARE * (end - start)))
        if container_id in self._snapshots.containers:
            self._usages[container_id] = known
        return known

    async def _pull(self, reference: Reference, auth: AuthConfig | None) -> ImageId:
        async with self._adding(reference) as (job, claim):
            return await self._bring(reference, auth, job, claim)

    @contextlib.asynccontextmanager
    async def _adding(self, reference: Reference) -> AsyncIterator[tuple[Unpacking, "_Claim"]]:
        """One pull or load of a reference at a time, with its unpackings and what it relies on."""
        lock = self._locks.setdefault(reference, asyncio.Lock())
        async with lock:
            claim = _Claim()
            self._claims.add(claim)
            job = Unpacking(self._content, self._workers)
            try:
                yield job, claim
            finally:
                await asyncio.shield(job.end())
                self._claims.discard(claim)
                await self._sweep()

    async def _bring(self, reference: Reference, auth: AuthConfig | None, job: Unpacking, claim: "_Claim") -> ImageId:
        known = {blob for entry in self._table.values() for blob in entry.blobs}
        here: tuple[ImageEntry, Configuration] | None = None

        def arrived(layer: Descriptor) -> None:
            if layer.digest not in known:
                job.begin(layer.digest)

        def has(digest: str) -> bool:
            nonlocal here
            entry = find(self._table, f"{reference.repository}@{digest}")
            if entry is None:
                return False
            here = entry, self._configs[entry.id]
            claim.blobs.update(entry.blobs)  # the sweep of a removal from now on finds the claim
            claim.layers.update(entry.layers)
            return True

        async def claim_blobs(digests: Collection[str]) -> None:
            async with self._gate:
                claim.blobs.update(digests)

        hooks = PullHooks(has=has, claim=claim_blobs, progress=self._progress, missing=job.expect, arrived=arrived)
        pulled = await self._puller.pull(reference, auth, hooks)
        if pulled.copied is not None:
            self._observer.fetched(pulled.copied.fetched)
            here = await self._unpack(pulled.copied, job, claim)
        if here is None:
            raise NotFound("image", str(reference))
        return await self._name(*here, reference, pulled.digest)

    async def _name(self, entry: ImageEntry, config: Configuration, reference: Reference, digest: str) -> ImageId:
        async with self._writing:
            table = named(self._table, entry, reference, digest)
            await asyncio.to_thread(self._content.save, table)
            self._table = table
            self._configs[entry.id] = config
            self._doomed.difference_update(entry.blobs)
        return entry.id

    async def _unpack(self, copied: Copied, job: Unpacking, claim: "_Claim") -> tuple[ImageEntry, Configuration]:
        manifest = copied.manifest
        image_id = ImageId(manifest.config.digest)
        config = await asyncio.to_thread(self._content.config, image_id, len(manifest.layers), manifest.module)
        chain = chain_ids(config.diff_ids)
        async with self._gate:
            claim.layers.update(chain)
        missing = [chain_id for chain_id in chain if chain_id not in self._content.sizes]
        for chain_id, layer in zip(chain, manifest.layers, strict=True):
            if chain_id in missing:
                job.begin(layer.digest)
        layers = {
            chain_id: await job.take(layer.digest, diff_id)
            for chain_id, diff_id, layer in zip(chain, config.diff_ids, manifest.layers, strict=True)
            if chain_id in missing
        }
        if layers:
            # the layers that are present are claimed, so that they stay while others are settled over them
            places = (layers[one].place if one in layers else self._content.layer(one).parent for one in chain)
            await self._workers.settle(tuple(places))
            async with self._gate:  # a sweep would delete a partly adopted image
                await asyncio.to_thread(self._content.adopt, layers)
        blobs = dict.fromkeys((copied.digest, image_id, *(layer.digest for layer in manifest.layers)))
        entry = ImageEntry(
            id=image_id, manifest=copied.digest, blobs=tuple(blobs), layers=chain, size=copied.size + manifest.size
        )
        return entry, config

    async def _sweep(self) -> None:
        """Delete unused content. Content that is claimed by pulls under way stays."""
        async with self._gate:
            doomed = tuple(self._doomed)
            self._doomed = {blob for claim in self._claims for blob in claim.blobs if blob in self._doomed}
            delete = await asyncio.to_thread(self._content.sweep, *self._needed(), doomed, self._clock.now() / _SECOND)
        await asyncio.to_thread(delete)

    def _needed(self) -> tuple[set[str], set[str]]:
        """The layers and the blobs that an image, a container or a pull under way uses. Called on the event loop."""
        needing: tuple[ImageEntry | _Claim, ...] = (*self._table.values(), *self._claims)
        layers = self._snapshots.in_use.union(*(entry.layers for entry in needing))
        return layers, {blob for entry in needing for blob in entry.blobs}

    def _layers(self, image_id: ImageId) -> tuple[str, ...]:
        if image_id not in self._table:
            raise NotFound("image", image_id)
        return self._table[image_id].layers

    def _shown(self, entry: ImageEntry) -> Image:
        user = self._configs[entry.id].config.user
        return shown(entry, user, is_pinned=pinned(entry, self._pinned))

    def _ended(self, key: tuple[Reference, AuthConfig | None], task: "asyncio.Task[ImageId]") -> None:
        del self._pulls[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("pulling %s: %s", key[0], error)


@attrs.define(eq=False)
class _Claim:
    """The digests and chain ids on which a pull under way relies. Added to under the store's gate."""

    blobs: set[str] = attrs.field(factory=set)
    layers: set[str] = attrs.field(factory=set)
