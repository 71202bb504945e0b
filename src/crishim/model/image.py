"""Images: references, configuration, credentials, and the usage of a store."""

import attrs

from crishim.model.values import EMPTY, FrozenDict, ImageId, frozen

__all__ = ["AuthConfig", "FilesystemUsage", "Image", "ImageConfig", "ImageDetail", "ImageFsInfo", "ImageSpec"]


@attrs.frozen(kw_only=True)
class ImageSpec:
    """An image reference of a request."""

    image: str = ""
    """An id, a tag or a digest reference; the kubelet sends ids."""
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Returned unchanged."""
    user_specified_image: str = ""
    """What the pod's author wrote."""
    runtime_handler: str = ""
    """The handler whose image service is meant; empty for the default."""
    image_ref: str = ""
    """The result of an earlier PullImage."""


@attrs.frozen(kw_only=True)
class Image:
    """An image of the store, as lists show it. `uid` and `username` come from the image's user; at most one is set.

    `size` is bytes, and above zero: clients reject zero. `id` is the result of PullImage.
    """

    id: ImageId
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    size: int
    uid: int | None = None
    username: str = ""
    spec: ImageSpec | None = None
    pinned: bool = False


@attrs.frozen(kw_only=True)
class ImageConfig:
    """The defaults of an image for its processes: `config` of the OCI image configuration."""

    entrypoint: tuple[str, ...] = ()
    """The program and its first arguments."""
    cmd: tuple[str, ...] = ()
    """Further arguments, or the command where there is no entrypoint."""
    env: tuple[str, ...] = ()
    """`NAME=value` each."""
    working_dir: str = ""
    """An absolute path; empty for `/`."""
    user: str = ""
    """The image's own string: a name or number, and perhaps `:group`."""
    stop_signal: str = ""
    """A name or number; empty for SIGTERM."""
    volumes: tuple[str, ...] = ()
    """Absolute paths that are to be writable folders."""
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """The image's labels."""


@attrs.frozen(kw_only=True)
class ImageDetail:
    """One image with its configuration, for ImageStatus and for CreateContainer. `info` is for verbose responses.

    Of an image that `is_checkpoint` the files are those of a checkpoint archive: a container of it is restored.
    """

    image: Image
    config: ImageConfig = ImageConfig()
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    is_checkpoint: bool = False


@attrs.frozen(kw_only=True)
class AuthConfig:
    """Credentials for one registry. `auth` is base64 of `user:password`. The repr leaves the secrets out."""

    username: str = ""
    password: str = attrs.field(default="", repr=False)
    auth: str = attrs.field(default="", repr=False)
    server_address: str = ""
    identity_token: str = attrs.field(default="", repr=False)
    registry_token: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class FilesystemUsage:
    """The usage of a file system."""

    timestamp: int
    """Nanoseconds since the epoch."""
    mountpoint: str
    """A path on the file system; the kubelet calls statfs on it."""
    used_bytes: int | None = None
    """Bytes."""
    inodes_used: int | None = None
    """The number of inodes."""


@attrs.frozen(kw_only=True)
class ImageFsInfo:
    """The file systems of a store, the default one first; the second list only where containers are stored elsewhere."""

    image_filesystems: tuple[FilesystemUsage, ...]
    container_filesystems: tuple[FilesystemUsage, ...] = ()
