"""What is claimed."""

from typing import Any

import pytest

from crishim.errors import InvalidArgument
from crishim.lifecycle.honours import check_container
from crishim.model.container import ContainerMetadata, ContainerSpec
from crishim.model.honours import OCI, PROCESS, VM
from crishim.model.ids import ContainerId, ImageId, SandboxId
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, SandboxSpec


def spec(**changes: Any) -> ContainerSpec:
    config = PodSandboxConfig(metadata=PodSandboxMetadata(name="p", namespace="n", uid="u"))
    sandbox = SandboxSpec(id=SandboxId("s"), config=config)
    values: dict[str, Any] = {"sandbox": sandbox, "metadata": ContainerMetadata("c"), "argv": ("x",), **changes}
    return ContainerSpec(id=ContainerId("c"), image_id=ImageId("i"), **values)


@pytest.mark.parametrize("honours", [PROCESS, OCI, VM])
def test_cdi_devices_are_refused_by_all(honours: frozenset[Any]) -> None:
    """CDI devices, which nobody looks up yet, are refused by name instead of being ignored (mapping.md 6)."""
    with pytest.raises(InvalidArgument, match="CDI_devices"):
        check_container(spec(cdi_devices=("vendor.example/class=dev",)), honours)
    check_container(spec(), honours)
