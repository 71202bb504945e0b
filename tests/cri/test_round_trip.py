from hypothesis import HealthCheck, given, settings

from crishim.cri import pb
from crishim.cri.convert import common, container, image, resources, sandbox_config, security
from crishim.model.container import ContainerConfig, ContainerMetadata, Device, Mount
from crishim.model.image import ImageSpec
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata
from crishim.model.security import LinuxContainerSecurityContext, LinuxSandboxSecurityContext
from tests.strategies import of

wide = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


@wide
@given(of(PodSandboxConfig))
def test_sandbox_configurations(config: PodSandboxConfig) -> None:
    """A sandbox's configuration is the same after a journey over the wire."""
    wire = sandbox_config.encode_config(config).SerializeToString()
    assert config == sandbox_config.decode_config(pb.PodSandboxConfig.FromString(wire), "config")


@wide
@given(of(ContainerConfig))
def test_container_configurations(config: ContainerConfig) -> None:
    """A container's configuration is the same after a journey over the wire."""
    wire = container.encode_config(config).SerializeToString()
    assert config == container.decode_config(pb.ContainerConfig.FromString(wire), "config")


@given(of(LinuxSandboxSecurityContext))
def test_sandbox_security(context: LinuxSandboxSecurityContext) -> None:
    """A sandbox's security is the same after a journey over the wire."""
    wire = security.encode_sandbox_context(context).SerializeToString()
    assert context == security.decode_sandbox_context(pb.LinuxSandboxSecurityContext.FromString(wire), "s")


@given(of(LinuxContainerSecurityContext))
def test_container_security(context: LinuxContainerSecurityContext) -> None:
    """A container's security is the same after a journey over the wire."""
    wire = security.encode_container_context(context).SerializeToString()
    assert context == security.decode_container_context(pb.LinuxContainerSecurityContext.FromString(wire), "s")


@given(of(Resources))
def test_limits(limits: Resources) -> None:
    """Limits are the same after a journey over the wire."""
    wire = resources.encode_resources(limits).SerializeToString()
    assert limits == resources.decode_resources(pb.LinuxContainerResources.FromString(wire), "r")


@given(of(Mount))
def test_mounts(mount: Mount) -> None:
    """A mount is the same after a journey over the wire."""
    wire = container.encode_mount(mount).SerializeToString()
    assert mount == container.decode_mount(pb.Mount.FromString(wire), "m")


@given(of(Device))
def test_devices(device: Device) -> None:
    """A device is the same after a journey over the wire."""
    wire = container.encode_device(device).SerializeToString()
    assert device == container.decode_device(pb.Device.FromString(wire), "d")


@given(of(ImageSpec))
def test_image_names(spec: ImageSpec) -> None:
    """An image's name is the same after a journey over the wire."""
    wire = image.encode_spec(spec).SerializeToString()
    assert spec == image.decode_spec(pb.ImageSpec.FromString(wire))


@given(of(PodSandboxMetadata), of(ContainerMetadata))
def test_names(sandbox: PodSandboxMetadata, container: ContainerMetadata) -> None:
    """The names of sandboxes and containers are the same after a journey over the wire."""
    sandbox_wire = common.encode_sandbox(sandbox).SerializeToString()
    assert sandbox == common.decode_sandbox(pb.PodSandboxMetadata.FromString(sandbox_wire), "m")
    container_wire = common.encode_container(container).SerializeToString()
    assert container == common.decode_container(pb.ContainerMetadata.FromString(container_wire), "m")
