import pytest

from crishim.cri import pb
from crishim.cri.convert import runtime
from crishim.model.runtime import (
    CgroupDriver,
    RuntimeCondition,
    RuntimeFeatures,
    RuntimeHandler,
    RuntimeHandlerFeatures,
    RuntimeStatus,
    Version,
)


def test_version_says_who_serves() -> None:
    """Version gives its verb what the client named, and answers four texts."""
    assert runtime.decode_version(pb.VersionRequest(version="v1")) == ("v1",)
    expected = pb.VersionResponse(version="0.1.0", runtime_name="crishim", runtime_version="1.2.3", runtime_api_version="v1")
    assert expected == runtime.encode_version(Version(runtime_version="1.2.3"))


def test_status_is_encoded_in_full() -> None:
    """Status gives its verb whether to be verbose, and answers conditions, handlers, features and texts."""
    assert runtime.decode_status(pb.StatusRequest(verbose=True)) == (True,)
    status = RuntimeStatus(
        conditions=(RuntimeCondition(type="NetworkReady", status=False, reason="NoConfig", message="bad \udcff"),),
        handlers=(
            RuntimeHandler(name="", features=RuntimeHandlerFeatures(recursive_read_only_mounts=True, user_namespaces=True)),
        ),
        features=RuntimeFeatures(supplemental_groups_policy=True, user_namespaces_host_network=True, mount_options=True),
        info={"config": "{}"},
    )
    expected = pb.StatusResponse(
        status=pb.RuntimeStatus(
            conditions=[pb.RuntimeCondition(type="NetworkReady", status=False, reason="NoConfig", message="bad ?")]
        ),
        info={"config": "{}"},
        runtime_handlers=[
            pb.RuntimeHandler(features=pb.RuntimeHandlerFeatures(recursive_read_only_mounts=True, user_namespaces=True))
        ],
        features=pb.RuntimeFeatures(supplemental_groups_policy=True, user_namespaces_host_network=True, mount_options=True),
    )
    assert expected == runtime.encode_status(status)


def test_the_pods_address_range_may_be_missing() -> None:
    """UpdateRuntimeConfig gives its verb the range, empty where none was sent."""
    network = pb.NetworkConfig(pod_cidr="10.0.0.0/24")
    request = pb.UpdateRuntimeConfigRequest(runtime_config=pb.RuntimeConfig(network_config=network))
    assert runtime.decode_update_config(request) == ("10.0.0.0/24",)
    assert runtime.decode_update_config(pb.UpdateRuntimeConfigRequest()) == ("",)


@pytest.mark.parametrize("driver", CgroupDriver)
def test_the_cgroup_driver_is_always_said(driver: CgroupDriver) -> None:
    """RuntimeConfig names the driver, systemd too, though its number is zero."""
    message = runtime.encode_config(driver)
    assert message.HasField("linux")
    assert pb.CgroupDriver.Value(driver.name) == message.linux.cgroup_driver
