"""Images: how they are named, listed, pulled, and what their store uses."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import sandbox_config
from crishim.cri.convert.common import decode_map, encode_int64, encode_texts, encode_uint64, not_empty
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.values import ImageId


def decode_spec(message: pb.ImageSpec) -> ImageSpec:
    """How an image is named; an absent message names none."""
    return ImageSpec(
        image=message.image,
        annotations=decode_map(message.annotations),
        user_specified_image=message.user_specified_image,
        runtime_handler=message.runtime_handler,
        image_ref=message.image_ref,
    )


def encode_spec(spec: ImageSpec) -> pb.ImageSpec:
    """How an image is named."""
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
    """An image of the store: one item of a list, field 1 of ListImages' reply and of StreamImages' alike."""
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
    """ListImages, StreamImages: the only image to show; None for all. A filter that names none, nor a handler, is none."""
    wanted = request.filter
    spec = decode_spec(wanted.image)
    return (spec if spec.image or spec.runtime_handler else None,)


def decode_status(request: pb.ImageStatusRequest) -> tuple[ImageSpec, bool]:
    """ImageStatus: the image, and whether to be verbose."""
    return _named(request.image), request.verbose


def encode_status(detail: ImageDetail | None) -> pb.ImageStatusResponse:
    """ImageStatus: the image, left unset where there is none."""
    if detail is None:
        return pb.ImageStatusResponse()
    return pb.ImageStatusResponse(image=encode_image(detail.image), info=encode_texts(detail.info))


def decode_auth(message: pb.AuthConfig) -> AuthConfig:
    """What a registry is shown."""
    return AuthConfig(
        username=message.username,
        password=message.password,
        auth=message.auth,
        server_address=message.server_address,
        identity_token=message.identity_token,
        registry_token=message.registry_token,
    )


def decode_pull(request: pb.PullImageRequest) -> tuple[ImageSpec, AuthConfig | None, PodSandboxConfig | None]:
    """PullImage: the image, what to show the registry, and the pod that needs it first.

    That pod may be without a name: clients that pull by hand send what they have, which the official suite does too.
    """
    pod = None
    if request.HasField("sandbox_config"):
        pod = sandbox_config.decode_config(request.sandbox_config, "sandbox_config", named=False)
    return _named(request.image), decode_auth(request.auth) if request.HasField("auth") else None, pod


def encode_pull(image_id: ImageId) -> pb.PullImageResponse:
    """PullImage: the image's id, the same text as in every list and status."""
    return pb.PullImageResponse(image_ref=image_id)


def decode_remove(request: pb.RemoveImageRequest) -> tuple[ImageSpec]:
    """RemoveImage: the image."""
    return (_named(request.image),)


def encode_filesystem(usage: FilesystemUsage) -> pb.FilesystemUsage:
    """What is used of a file system."""
    return pb.FilesystemUsage(
        timestamp=usage.timestamp,
        fs_id=pb.FilesystemIdentifier(mountpoint=usage.mountpoint),
        used_bytes=encode_uint64(usage.used_bytes),
        inodes_used=encode_uint64(usage.inodes_used),
    )


def encode_fs_info(info: ImageFsInfo) -> pb.ImageFsInfoResponse:
    """ImageFsInfo: the file systems."""
    return pb.ImageFsInfoResponse(
        image_filesystems=[encode_filesystem(usage) for usage in info.image_filesystems],
        container_filesystems=[encode_filesystem(usage) for usage in info.container_filesystems],
    )
