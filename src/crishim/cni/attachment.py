"""The attachment of a sandbox to a network, and the stdin of a plugin.

Capability arguments are those that the kubelet's runtimes set (CNI CONVENTIONS.md): portMappings, bandwidth, dns and the pod's
annotations. A plugin gets only those that it claims.
"""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import attrs

from crishim.cni.config import NetworkList, PluginConfig
from crishim.errors import InvalidArgument
from crishim.model.sandbox import PodSandboxConfig, SandboxSpec

INTERFACE: Final = "eth0"
INGRESS: Final = "kubernetes.io/ingress-bandwidth"
EGRESS: Final = "kubernetes.io/egress-bandwidth"

_BURST: Final = (1 << 32) - 1
"""Bits; the value of the kubelet's network plugin, and of all runtimes since."""

_QUANTITY: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:([kMGTPE]i?|Ki|m)|[eE]([+-]?\d{1,3}))?")
_SUFFIXES: Final = {
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}
_LEAST, _MOST = 1000, 1000**5


@attrs.frozen(kw_only=True)
class Attachment:
    """An attachment of a sandbox to a network, with everything that DEL must get again.

    `args` are the pairs of CNI_ARGS; `netns` is the path that ADD was given.
    """

    container_id: str
    netns: str
    args: tuple[tuple[str, str], ...] = ()
    capabilities: Mapping[str, Any]


def attachment(spec: SandboxSpec) -> Attachment:
    """The attachment for a sandbox. Raises `InvalidArgument` for values that cannot be passed to plugins."""
    return Attachment(
        container_id=spec.id,
        netns=spec.netns,
        args=cni_args(spec),
        capabilities=capability_arguments(spec.config),
    )


def cni_args(spec: SandboxSpec) -> tuple[tuple[str, str], ...]:
    """CNI_ARGS, as Kubernetes' runtimes set them."""
    metadata = spec.config.metadata
    pairs = (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", metadata.namespace),
        ("K8S_POD_NAME", metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", spec.id),
        ("K8S_POD_UID", metadata.uid),
    )
    for key, value in pairs:
        if set(value) & set(";=\0"):
            raise InvalidArgument("config.metadata", f"{value!r} cannot be passed to a network plugin as {key}")
    return pairs


def capability_arguments(config: PodSandboxConfig) -> dict[str, Any]:
    """The values of the pod's configuration for plugins that claim a capability, by the capability's name."""
    arguments: dict[str, Any] = {"io.kubernetes.cri.pod-annotations": dict(config.annotations)}
    ports = [
        {
            "hostPort": mapping.host_port,
            "containerPort": mapping.container_port,
            "protocol": mapping.protocol.name.lower(),
            **({"hostIP": mapping.host_ip} if mapping.host_ip else {}),
        }
        for mapping in config.port_mappings
        if mapping.host_port > 0
    ]
    if ports:
        arguments["portMappings"] = ports
    if limits := _bandwidth(config.annotations):
        arguments["bandwidth"] = limits
    if config.dns_config is not None:
        dns = attrs.asdict(config.dns_config)
        arguments["dns"] = {key: list(values) for key, values in dns.items() if values}
    if config.linux.cgroup_parent:
        arguments["cgroupPath"] = config.linux.cgroup_parent
    return arguments


def plugin_input(
    network: NetworkList, plugin: PluginConfig, capabilities: Mapping[str, Any], previous: Mapping[str, Any] | None = None
) -> bytes:
    """The stdin of a plugin: its own object, with name, version, its capability arguments, and the previous result."""
    config = {key: value for key, value in plugin.config.items() if key != "capabilities"}
    config["name"] = network.name
    config["cniVersion"] = network.version
    if given := {name: capabilities[name] for name in sorted(plugin.capabilities) if name in capabilities}:
        config["runtimeConfig"] = given
    if previous is not None:
        config["prevResult"] = previous
    return json.dumps(config, ensure_ascii=False).encode()


def garbage_input(network: NetworkList, plugin: PluginConfig, valid: Sequence[str]) -> bytes:
    """The stdin of a plugin for GC: its object, and the valid attachments (specification 1.1, GC)."""
    config = json.loads(plugin_input(network, plugin, {}))
    config["cni.dev/valid-attachments"] = [{"containerID": container_id, "ifname": INTERFACE} for container_id in valid]
    return json.dumps(config, ensure_ascii=False).encode()


def bits_per_second(annotation: str, text: str) -> int:
    """A Kubernetes quantity between 1k and 1P, as the bandwidth annotations require. Raises `InvalidArgument`."""
    field = f"config.annotations[{annotation}]"
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidArgument(field, f"{text!r} is not a quantity")
    number, suffix, exponent = match.groups()
    value = Decimal(number) * (_SUFFIXES[suffix] if suffix else Decimal(10) ** int(exponent or 0))
    if not _LEAST <= value <= _MOST:
        raise InvalidArgument(field, f"{text!r} is not between 1k and 1P bits per second")
    return int(value)


def _bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    bandwidth = {}
    for annotation, direction in ((INGRESS, "ingress"), (EGRESS, "egress")):
        if text := annotations.get(annotation, ""):
            bandwidth[f"{direction}Rate"] = bits_per_second(annotation, text)
            bandwidth[f"{direction}Burst"] = _BURST
    return bandwidth
