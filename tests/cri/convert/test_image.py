from collections.abc import Callable

import pytest

from crishim.cri import pb
from crishim.cri.convert import image
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata
from crishim.model.values import ImageId
from tests.cri.refusals import refused

BUSYBOX = Image(
    id=ImageId("sha256:1"),
    repo_tags=("busybox:1",),
    repo_digests=("busybox@sha256:2",),
    size=7,
    uid=0,
    spec=ImageSpec(image="sha256:1"),
    pinned=True,
)
BUSYBOX_MESSAGE = pb.Image(
    id="sha256:1",
    repo_tags=["busybox:1"],
    repo_digests=["busybox@sha256:2"],
    size=7,
    uid=pb.Int64Value(),
    spec=pb.ImageSpec(image="sha256:1"),
    pinned=True,
)


def test_an_image_is_encoded_in_full() -> None:
    """Every part of an image is on the wire; uid 0 is a number, a missing one is absent."""
    assert BUSYBOX_MESSAGE == image.encode_image(BUSYBOX)
    named = image.encode_image(Image(id=ImageId("i"), size=1, username="www"))
    assert pb.Image(id="i", size=1, username="www") == named


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, None),
        (pb.ImageFilter(), None),
        (pb.ImageFilter(image=pb.ImageSpec()), None),
        (pb.ImageFilter(image=pb.ImageSpec(image="x")), ImageSpec(image="x")),
        (pb.ImageFilter(image=pb.ImageSpec(runtime_handler="kata")), ImageSpec(runtime_handler="kata")),
    ],
)
def test_a_filter_without_a_name_is_none(wanted: pb.ImageFilter | None, expected: ImageSpec | None) -> None:
    """ListImages gives its verb an image or a handler to show alone, or None for all."""
    assert (expected,) == image.decode_list(pb.ListImagesRequest(filter=wanted))
    assert (expected,) == image.decode_list(pb.StreamImagesRequest(filter=wanted))


def test_items_of_lists() -> None:
    """ListImages answers every image with all that is known of it."""
    assert BUSYBOX_MESSAGE == image.encode_image(BUSYBOX)


def test_an_unknown_image_is_left_unset() -> None:
    """ImageStatus answers an image with its texts, or an empty reply, which is no error."""
    expected = pb.ImageStatusResponse(image=BUSYBOX_MESSAGE, info={"info": "{}"})
    assert expected == image.encode_status(ImageDetail(image=BUSYBOX, info={"info": "{}"}))
    assert pb.ImageStatusResponse() == image.encode_status(None)


def test_status_and_remove_take_an_image() -> None:
    """ImageStatus takes the image and whether to be verbose, RemoveImage the image."""
    message = pb.ImageSpec(image="x", annotations={"a": "b"}, user_specified_image="u", runtime_handler="h", image_ref="r")
    expected = ImageSpec(image="x", annotations={"a": "b"}, user_specified_image="u", runtime_handler="h", image_ref="r")
    assert (expected, True) == image.decode_status(pb.ImageStatusRequest(image=message, verbose=True))
    assert (expected,) == image.decode_remove(pb.RemoveImageRequest(image=message))


@pytest.mark.parametrize(
    "decode",
    [
        lambda: image.decode_status(pb.ImageStatusRequest()),
        lambda: image.decode_remove(pb.RemoveImageRequest(image=pb.ImageSpec())),
        lambda: image.decode_pull(pb.PullImageRequest()),
    ],
)
def test_images_must_be_named(decode: Callable[[], object]) -> None:
    """Status, pull and remove need an image's name."""
    with refused("image.image"):
        decode()


def test_pull_takes_credentials_and_the_pod() -> None:
    """PullImage gives its verb the image, the credentials and the pod, and answers the id."""
    request = pb.PullImageRequest(
        image=pb.ImageSpec(image="x"),
        auth=pb.AuthConfig(username="u", password="p", auth="a", server_address="s", identity_token="i", registry_token="r"),
        sandbox_config=pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="n", namespace="ns", uid="u")),
    )
    expected = (
        ImageSpec(image="x"),
        AuthConfig(username="u", password="p", auth="a", server_address="s", identity_token="i", registry_token="r"),
        PodSandboxConfig(metadata=PodSandboxMetadata("n", "ns", "u")),
    )
    assert expected == image.decode_pull(request)
    assert pb.PullImageResponse(image_ref="sha256:1") == image.encode_pull(ImageId("sha256:1"))


def test_pull_needs_neither_credentials_nor_a_named_pod() -> None:
    """PullImage by hand has no credentials, and a pod without a name or none."""
    request = pb.PullImageRequest(image=pb.ImageSpec(image="x"))
    assert (ImageSpec(image="x"), None, None) == image.decode_pull(request)
    request.sandbox_config.labels["a"] = "b"
    nameless = PodSandboxConfig(metadata=PodSandboxMetadata("", "", ""), labels={"a": "b"})
    assert (ImageSpec(image="x"), None, nameless) == image.decode_pull(request)


def test_file_systems_are_named_by_a_path() -> None:
    """ImageFsInfo has the usage, with unmeasured values unset."""
    images = FilesystemUsage(timestamp=1, mountpoint="/images", used_bytes=0)
    containers = FilesystemUsage(timestamp=2, mountpoint="/containers", inodes_used=3)
    expected = pb.ImageFsInfoResponse(
        image_filesystems=[
            pb.FilesystemUsage(timestamp=1, fs_id=pb.FilesystemIdentifier(mountpoint="/images"), used_bytes=pb.UInt64Value())
        ],
        container_filesystems=[
            pb.FilesystemUsage(
                timestamp=2, fs_id=pb.FilesystemIdentifier(mountpoint="/containers"), inodes_used=pb.UInt64Value(value=3)
            )
        ],
    )
    info = ImageFsInfo(image_filesystems=(images,), container_filesystems=(containers,))
    assert expected == image.encode_fs_info(info)
