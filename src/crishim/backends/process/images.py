"""Images for containers that use none: every reference counts as present after a pull, and nothing is downloaded."""

import hashlib
import json
import re
from pathlib import Path
from typing import Final

from crishim.backends.process.state import write_json
from crishim.errors import InvalidArgument, NotFound
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.seats import ImageService
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import FrozenDict, ImageId

_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ID_PREFIX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_NOTE: Final = "no image is pulled: containers of the process backend run the programs of this machine"


class HostImages(ImageService):
    """References that were pulled, each with the id to which its normalised form hashes, stored in `context.state`.

    Every image has one tag or digest, and a size of one byte, since clients reject zero.
    """

    def __init__(self, context: BackendContext) -> None:
        self._file = context.state / "images.json"
        self._clock = context.clock
        self._names: dict[ImageId, str] = {}
        if self._file.exists():
            self._names = {image_id(name): name for name in json.loads(self._file.read_bytes())}

    async def list(self) -> tuple[Image, ...]:
        """All references that were pulled and not removed."""
        return tuple(_image(name) for name in self._names.values())

    async def status(self, image: ImageSpec) -> ImageDetail | None:
        """One image. Its configuration is empty, so a container must name its command. `info` says that nothing was
        downloaded.
        """
        image_id_ = self._find(image.image)
        if image_id_ is None:
            return None
        info = json.dumps({"source": "host", "note": _NOTE})
        return ImageDetail(image=_image(self._names[image_id_]), info=FrozenDict({"info": info}))

    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:  # noqa: ARG002
        """Record a reference. Raises `InvalidArgument` for an invalid one, and `NotFound` for an unknown id."""
        if _ID.fullmatch(image.image):
            if (known_id := self._find(image.image)) is None:
                raise NotFound("image", image.image)
            return known_id
        name = normalised(image.image)
        self._names[image_id(name)] = name
        self._save()
        return image_id(name)

    async def remove(self, image: ImageSpec) -> None:
        """Forget a reference. Unknown ones are no error."""
        known_id = self._find(image.image)
        if known_id is not None:
            del self._names[known_id]
            self._save()

    async def fs_info(self) -> ImageFsInfo:
        """The usage of the file of references."""
        there = self._file.exists()
        usage = FilesystemUsage(
            timestamp=self._clock.now(),
            mountpoint=str(_existing(self._file.parent)),
            used_bytes=self._file.stat().st_size if there else 0,
            inodes_used=int(there),
        )
        return ImageFsInfo(image_filesystems=(usage,))

    def _find(self, text: str) -> ImageId | None:
        if text in self._names:
            return ImageId(text)
        try:
            named = image_id(normalised(text))
        except InvalidArgument:
            return None
        if named in self._names:
            return named
        prefix = _ID_PREFIX.fullmatch(text)
        matches = [known for known in self._names if prefix and known.startswith(f"sha256:{prefix[1]}")]
        return matches[0] if len(matches) == 1 else None

    def _save(self) -> None:
        write_json(self._file, list(self._names.values()))


def normalised(reference: str) -> str:
    """A reference with its registry and its tag, by docker's rules for short ones; with a digest the tag is dropped.

    Raises `InvalidArgument` for an invalid reference.
    """
    if not reference.isascii() or not reference.isprintable() or not reference or " " in reference:
        raise InvalidArgument("image.image", f"{reference[:100]!r} is not an image reference")
    name, _, digest = reference.partition("@")
    first, _, rest = name.partition("/")
    if not rest:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    folder, _, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    if digest:
        return f"{folder}/{last}@{digest}"
    return f"{folder}/{last}:{tag or 'latest'}"


def image_id(name: str) -> ImageId:
    """The id of a normalised reference: `sha256:` and the hash of its text."""
    return ImageId("sha256:" + hashlib.sha256(name.encode()).hexdigest())


def _image(name: str) -> Image:
    digests, tags = ((name,), ()) if "@" in name else ((), (name,))
    return Image(id=image_id(name), repo_tags=tags, repo_digests=digests, size=1)


def _existing(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))
