import pytest

from crishim.cri import pb
from crishim.cri.convert.container import decode_device, decode_mount
from crishim.model.container import Device, Mount
from crishim.model.image import ImageSpec
from tests.cri.refusals import refused

TO_CONTAINER = pb.MountPropagation.PROPAGATION_HOST_TO_CONTAINER


def test_a_mount_is_a_path_at_a_path() -> None:
    """The plainest mount is read."""
    expected = Mount(container_path="/c", host_path="/h")
    assert expected == decode_mount(pb.Mount(container_path="/c", host_path="/h"), "m")


def test_a_mount_may_be_of_an_image() -> None:
    """An image stands instead of a host path."""
    message = pb.Mount(container_path="/c", image=pb.ImageSpec(image="i"), image_sub_path="s", readonly=True)
    expected = Mount(container_path="/c", image=ImageSpec(image="i"), image_sub_path="s", readonly=True)
    assert expected == decode_mount(message, "m")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Mount(host_path="/h"), "container_path"),
        (pb.Mount(container_path="/c"), "host_path"),
        (pb.Mount(container_path="/c", image=pb.ImageSpec()), "host_path"),
        (pb.Mount(container_path="/c", host_path="/h", image=pb.ImageSpec(image="i")), "host_path"),
        (pb.Mount(container_path="/c", image=pb.ImageSpec(image="i")), "readonly"),
        (pb.Mount(container_path="/c", host_path="/h", propagation=3), "propagation"),  # type: ignore[arg-type]
        (pb.Mount(container_path="/c", host_path="/h", recursive_read_only=True), "recursive_read_only"),
        (
            pb.Mount(container_path="/c", host_path="/h", readonly=True, propagation=TO_CONTAINER, recursive_read_only=True),
            "recursive_read_only",
        ),
    ],
)
def test_mounts_that_make_no_sense_are_refused(message: pb.Mount, field: str) -> None:
    """A mount from nowhere, to nowhere, from two places, or recursively read-only without the rest is refused."""
    with refused(f"config.mounts[2].{field}"):
        decode_mount(message, "config.mounts[2]")


@pytest.mark.parametrize(("permissions", "expected"), [("", "rwm"), ("r", "r"), ("mrw", "mrw")])
def test_a_device_has_permissions(permissions: str, expected: str) -> None:
    """Letters are passed on unchanged; none at all mean all of them."""
    message = pb.Device(container_path="/c", host_path="/h", permissions=permissions)
    assert Device("/c", "/h", expected) == decode_device(message, "d")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Device(host_path="/h"), "container_path"),
        (pb.Device(container_path="/c"), "host_path"),
        (pb.Device(container_path="/c", host_path="/h", permissions="rx"), "permissions"),
    ],
)
def test_devices_that_make_no_sense_are_refused(message: pb.Device, field: str) -> None:
    """A device needs both paths, and letters that cgroups know."""
    with refused(f"config.devices[0].{field}"):
        decode_device(message, "config.devices[0]")
