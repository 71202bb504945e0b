"""The messages of the image verbs: references, list items, credentials, usage of file systems."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import sandbox_config
from crishim.cri.convert.common import decode_map, encode_int64, encode_texts, encode_uint64, not_empty
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import ImageId


def decode_spec(message: pb.ImageSpec) -> ImageSpec:
    """An image reference; an absent message is an empty one."""
    return ImageSpec(
        image=message.image,
        annotations=decode_map(message.annotations),
        user_specified_image=message.user_specified_image,
        runtime_handler=message.runtime_handler,
        image_ref=message.image_ref,
    )


def encode_spec(spec: ImageSpec) -> pb.ImageSpec:
    """An image reference."""
    return pb.ImageSpec(
        image=spec.image,
        annotations=spec.annotations,
        user_specified_image=spec.user_specified_image,
        runtime_handler=spec.runtime_handler,
        image_ref=spec.image_ref,
    )


def _named(message: pb.ImageSpec) -> ImageSpec:
    not_empty(message.image, "image.image")
    return decode_spec(message)


def encode_image(image: Image) -> pb.Image:
    """An image of the store: field 1 of both ListImagesResponse and StreamImagesResponse."""
    return pb.Image(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.size,
        uid=encode_int64(image.uid),
        username=image.username,
        spec=encode_spec(image.spec) if image.spec else None,
        pinned=image.pinned,
    )


def decode_list(request: pb.ListImagesRequest | pb.StreamImagesRequest) -> tuple[ImageSpec | None]:
    """ListImages, StreamImages: the image to list; None for all, also with a filter that has neither an image nor a handler."""
    message = request.filter
    spec = decode_spec(message.image)
    return (spec if spec.image or spec.runtime_handler else None,)


def decode_status(request: pb.ImageStatusRequest) -> tuple[ImageSpec, bool]:
    """ImageStatus: the image, and whether verbose info is requested."""
    return _named(request.image), request.verbose


def encode_status(detail: ImageDetail | None) -> pb.ImageStatusResponse:
    """ImageStatus: the image, unset if it is not present."""
    if detail is None:
        return pb.ImageStatusResponse()
    return pb.ImageStatusResponse(image=encode_image(detail.image), info=encode_texts(detail.info))


def decode_auth(message: pb.AuthConfig) -> AuthConfig:
    """Credentials for a registry."""
    return AuthConfig(
        username=message.username,
        password=message.password,
        auth=message.auth,
        server_address=message.server_address,
        identity_token=message.identity_token,
        registry_token=message.registry_token,
    )


def decode_pull(request: pb.PullImageRequest) -> tuple[ImageSpec, AuthConfig | None, PodSandboxConfig | None]:
    """PullImage: the image, credentials, and the configuration of the pod that needs the image.

    The pod's metadata may be missing: clients that pull for no pod (crictl, critest) send an incomplete configuration.
    """
    pod = None
    if request.HasField("sandbox_config"):
        pod = sandbox_config.decode_config(request.sandbox_config, "sandbox_config", named=False)
    return _named(request.image), decode_auth(request.auth) if request.HasField("auth") else None, pod


def encode_pull(image_id: ImageId) -> pb.PullImageResponse:
    """PullImage: the image's id, the same as in lists and statuses."""
    return pb.PullImageResponse(image_ref=image_id)


def decode_remove(request: pb.RemoveImageRequest) -> tuple[ImageSpec]:
    """RemoveImage: the image."""
    return (_named(request.image),)


def encode_filesystem(usage: FilesystemUsage) -> pb.FilesystemUsage:
    """The usage of a file system."""
    return pb.FilesystemUsage(
        timestamp=usage.timestamp,
        fs_id=pb.FilesystemIdentifier(mountpoint=usage.mountpoint),
        used_bytes=encode_uint64(usage.used_bytes),
        inodes_used=encode_uint64(usage.inodes_used),
    )


def encode_fs_info(info: ImageFsInfo) -> pb.ImageFsInfoResponse:
    """ImageFsInfo: the usage of the store's file systems."""
    return pb.ImageFsInfoResponse(
        image_filesystems=[encode_filesystem(usage) for usage in info.image_filesystems],
        container_filesystems=[encode_filesystem(usage) for usage in info.container_filesystems],
    )
