"""Directories as images: each folder below the option `images` is one, by its name. `host` is the machine's own root."""

from pathlib import Path

from crishim import BackendContext, ImageId, ImageService, InvalidArgument, NotFound
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig


class DirectoryImages(ImageService):
    """Nothing is pulled or deleted: the owner of the folders creates and removes them."""

    def __init__(self, context: BackendContext) -> None:
        if unknown := context.options.keys() - {"images"}:
            raise InvalidArgument(f"options.{min(unknown)}", "is not known; known: images")
        self._folder = Path(context.options.get("images", context.state / "images"))
        self._clock = context.clock

    def root(self, image: str) -> Path:
        """The folder of an image. Raises `NotFound`."""
        name = image.removesuffix(":latest")
        root = Path("/") if name == "host" else self._folder / name
        if not name or "/" in name or name.startswith(".") or not root.is_dir():
            raise NotFound("image", image)
        return root.resolve()

    async def list(self) -> tuple[Image, ...]:
        names = sorted(path.name for path in self._folder.iterdir() if path.is_dir()) if self._folder.is_dir() else []
        return tuple(Image(id=ImageId(name), repo_tags=(f"{name}:latest",), size=1) for name in ("host", *names))

    async def status(self, image: ImageSpec) -> ImageDetail | None:
        name = image.image.removesuffix(":latest")
        found = [known for known in await self.list() if known.id == name]
        return ImageDetail(image=found[0]) if found else None

    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        self.root(image.image)
        return ImageId(image.image.removesuffix(":latest"))

    async def remove(self, image: ImageSpec) -> None:
        """Do nothing: see the class."""

    async def fs_info(self) -> ImageFsInfo:
        usage = FilesystemUsage(timestamp=self._clock.now(), mountpoint=str(self._folder), used_bytes=0, inodes_used=0)
        return ImageFsInfo(image_filesystems=(usage,))
