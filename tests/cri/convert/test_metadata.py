import pytest

from crishim.cri import pb
from crishim.cri.convert import common
from crishim.model.container import ContainerMetadata
from crishim.model.sandbox import PodSandboxMetadata
from tests.cri.refusals import refused


def test_a_sandbox_has_a_name_of_four_parts() -> None:
    """All four parts of a sandbox's name are read."""
    expected = PodSandboxMetadata(name="n", namespace="ns", uid="u", attempt=3)
    assert expected == common.decode_sandbox(pb.PodSandboxMetadata(name="n", namespace="ns", uid="u", attempt=3), "m")


@pytest.mark.parametrize("part", ["name", "namespace", "uid"])
def test_no_text_of_a_sandbox_name_may_be_empty(part: str) -> None:
    """An empty name, namespace or uid is refused: clients refuse a status that lacks one."""
    message = pb.PodSandboxMetadata(name="n", namespace="ns", uid="u")
    message.ClearField(part)  # type: ignore[arg-type]  # the stub lists the fields as literals
    with refused(f"config.metadata.{part}"):
        common.decode_sandbox(message, "config.metadata")


def test_a_container_has_a_name_of_two_parts() -> None:
    """Both parts of a container's name are read, and the text is needed."""
    expected = ContainerMetadata("n", 2)
    assert expected == common.decode_container(pb.ContainerMetadata(name="n", attempt=2), "m")
    with refused("config.metadata.name"):
        common.decode_container(pb.ContainerMetadata(attempt=2), "config.metadata")
