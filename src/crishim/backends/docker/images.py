"""DockerImages: the engine's images as CRI's image service.

An image's id is the engine's, whatever digest that is; PullImage, ContainerStatus and lists return it. References are full
(`docker.io/library/busybox:1`), as CRI's clients compare them; the engine shortens them.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from crishim.backends.docker.engine import Conflict, Engine
from crishim.backends.docker.image_files import IMAGE
from crishim.backends.docker.options import Options
from crishim.backends.docker.wire import Progress, failure, registry_auth
from crishim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from crishim.images.manifest import image_config
from crishim.images.reference import Reference, id_prefix, parse
from crishim.interfaces.seats import Clock, ImageService
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageConfig, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import FrozenDict, ImageId

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 8
_SIZES_AGE: Final = 30.0
"""Seconds for which the engine's sum of its layers is reused: to compute it, the engine walks through all containers."""


class DockerImages(ImageService):
    """The images of one engine."""

    def __init__(self, engine: Engine, clock: Clock, options: Options) -> None:
        self._engine = engine
        self._clock = clock
        self._options = options
        self._pinned = str(parse(options.pause_image or IMAGE))
        self._configs: dict[str, ImageConfig] = {}
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._removing = asyncio.Lock()
        self._used: tuple[float, FilesystemUsage] | None = None

    async def list(self) -> tuple[Image, ...]:
        rows = await self._engine.get("/images/json")
        await self._learn({row["Id"] for row in rows})
        return tuple(self._image(row, self._configs[row["Id"]]) for row in rows if row["Id"] in self._configs)

    async def status(self, image: ImageSpec) -> ImageDetail | None:
        inspected = await self._find(image.image)
        if inspected is None:
            return None
        config = self._configs[inspected["Id"]] = config_of(inspected)
        return ImageDetail(
            image=self._image(inspected, config), config=config, info=FrozenDict({"info": json.dumps({"imageSpec": inspected})})
        )

    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        del sandbox  # the engine needs no pod for a pull
        reference, credentials = parse(image.image), registry_auth(auth)
        key = str(reference), credentials
        shared = self._pulls.get(key)
        if shared is None or shared.task.cancelling():  # a pull that all callers have abandoned is being cancelled
            shared = self._pulls[key] = _Pull(asyncio.create_task(self._pull(reference, credentials)))
            shared.task.add_done_callback(lambda task: self._pull_ended(key, task))
        return await shared.joined()

    async def remove(self, image: ImageSpec) -> None:
        """Remove the image with all its names. The engine refuses an image that a running container uses:
        `FailedPrecondition`.
        """
        async with self._removing:  # the engine fails on concurrent removals of one image
            inspected = await self._find(image.image)
            if inspected is None:
                return
            image_id = inspected["Id"]
            try:
                await self._engine.delete(f"/images/{image_id}", "image", image_id, force=1)
            except NotFound:
                _log.debug("image %s was removed by another client", image_id)
            except Conflict as error:
                raise FailedPrecondition(f"in use ({error.message})", "unused", f"image {image_id}") from error
            self._configs.pop(image_id, None)

    async def fs_info(self) -> ImageFsInfo:
        now = self._clock.monotonic()
        if self._used is None or now - self._used[0] > _SIZES_AGE:
            usage, info = await asyncio.gather(self._engine.get("/system/df"), self._engine.get("/info"))
            usage = FilesystemUsage(
                timestamp=self._clock.now(),
                mountpoint=info.get("DockerRootDir") or "/",
                used_bytes=int(usage.get("LayersSize") or 0),
            )
            self._used = now, usage
        return ImageFsInfo(image_filesystems=(self._used[1],))

    def close(self) -> None:
        """Close idle connections."""
        self._engine.close()

    def _pull_ended(self, key: tuple[str, str], task: "asyncio.Task[ImageId]") -> None:
        if self._pulls[key].task is task:
            del self._pulls[key]

    async def _find(self, text: str) -> dict[str, Any] | None:
        """Find an image by its reference, or by its id or a prefix of it."""
        prefix = id_prefix(text)
        try:
            names = [str(parse(text))]
        except InvalidArgument:
            if not prefix:
                raise
            names = []
        for name in (*names, *([prefix] if prefix else [])):
            try:
                inspected = await self._engine.image(name)
            except (NotFound, InvalidArgument):  # an ambiguous prefix is not valid
                continue
            if name in names or str(inspected["Id"]).startswith(name):
                return inspected
        return None

    async def _learn(self, ids: set[str]) -> None:
        """Load the configuration of every image, once: the content of an id never changes."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def learn(image_id: str) -> None:
            async with gate:
                try:
                    self._configs[image_id] = config_of(await self._engine.image(image_id))
                except NotFound:
                    _log.debug("image %s was removed while it was listed", image_id)

        await asyncio.gather(*(learn(image_id) for image_id in ids - self._configs.keys()))
        for image_id in self._configs.keys() - ids:
            del self._configs[image_id]

    async def _pull(self, reference: Reference, credentials: str) -> ImageId:
        query = {"fromImage": reference.repository, "tag": reference.digest or reference.tag}
        progress, headers = Progress(), (("X-Registry-Auth", credentials),)
        name = str(reference)
        try:
            async with asyncio.timeout(self._options.pull_stall) as timeout:
                async with self._engine.stream("POST", "/images/create", "image", name, b"", headers, query) as pieces:
                    async for piece in pieces:
                        timeout.reschedule(asyncio.get_running_loop().time() + self._options.pull_stall)
                        for message in progress.feed(piece):
                            _log.debug("pull of %s: %s %s", name, message.get("id", ""), message.get("status", ""))
                for _ in progress.finish():
                    pass
        except TimeoutError:
            raise DeadlineExceeded(f"the pull of {name} has made no progress for {self._options.pull_stall} s") from None
        if progress.error is not None:
            raise failure(progress.error, name)
        return ImageId((await self._engine.image(name))["Id"])

    def _image(self, row: Mapping[str, Any], config: ImageConfig) -> Image:
        tags = names_of(row.get("RepoTags"))
        user = config.user.partition(":")[0]
        uid = int(user) if user.isascii() and user.isdigit() and len(user) <= 10 else None
        return Image(
            id=ImageId(row["Id"]),
            repo_tags=tags,
            repo_digests=names_of(row.get("RepoDigests")),
            size=max(1, int(row.get("Size") or 0)),
            uid=uid,
            username="" if uid is not None else user,
            pinned=self._pinned in tags,
        )


@attrs.define
class _Pull:
    """A pull that its callers share; it is cancelled when the last of them is."""

    task: "asyncio.Task[ImageId]"
    callers: int = 0

    async def joined(self) -> ImageId:
        self.callers += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self.callers -= 1
            if not self.callers and not self.task.done():
                self.task.cancel()
                await asyncio.wait({self.task})


def names_of(names: list[str] | None) -> tuple[str, ...]:
    """Full tags or digests, without the engine's `<none>` and without invalid names."""
    return tuple(_full_names(names or ()))


def _full_names(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if "<none>" not in name:
            with contextlib.suppress(InvalidArgument):  # engines have names that older rules allowed
                yield str(parse(name))


def config_of(inspected: Mapping[str, Any]) -> ImageConfig:
    """An image's defaults for processes."""
    return image_config(inspected.get("Config") or {})
