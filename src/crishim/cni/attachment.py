"""What a pod asks of its network, and what a plugin gets on its stdin.

Capability arguments are those that the kubelet's runtimes give (CNI CONVENTIONS.md): portMappings, bandwidth, dns and the
pod's annotations. A plugin gets only those that it claims.
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
"""Bits; as the kubelet's network plugin had it, and all runtimes since."""

_QUANTITY: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:([kMGTPE]i?|Ki|m)|[eE]([+-]?\d{1,3}))?")
_SUFFIXES: Final = {
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}
_LEAST, _MOST = 1000, 1000**5


@attrs.frozen(kw_only=True)
class Attachment:
    """A sandbox's tie to a network: all that the plugins must be told again when it is undone.

    `args` are CNI_ARGS in pairs; `netns` is the path that ADD was given.
    """

    container_id: str
    netns: str
    args: tuple[tuple[str, str], ...] = ()
    capabilities: Mapping[str, Any]


def attachment(spec: SandboxSpec) -> Attachment:
    """The attachment that a sandbox wants. Raises `InvalidArgument` for what no plugin could be told."""
    return Attachment(
        container_id=spec.id,
        netns=spec.netns,
        args=cni_args(spec),
        capabilities=capability_arguments(spec.config),
    )


def cni_args(spec: SandboxSpec) -> tuple[tuple[str, str], ...]:
    """CNI_ARGS, as Kubernetes' runtimes give them."""
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
            raise InvalidArgument("config.metadata", f"{value!r} cannot be told to a network plugin as {key}")
    return pairs


def capability_arguments(config: PodSandboxConfig) -> dict[str, Any]:
    """What the pod's configuration has for plugins that claim a capability, by the capability's name."""
    made: dict[str, Any] = {"io.kubernetes.cri.pod-annotations": dict(config.annotations)}
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
        made["portMappings"] = ports
    if limits := _bandwidth(config.annotations):
        made["bandwidth"] = limits
    if config.dns_config is not None:
        dns = attrs.asdict(config.dns_config)
        made["dns"] = {key: list(values) for key, values in dns.items() if values}
    if config.linux.cgroup_parent:
        made["cgroupPath"] = config.linux.cgroup_parent
    return made


def plugin_input(
    network: NetworkList, plugin: PluginConfig, capabilities: Mapping[str, Any], previous: Mapping[str, Any] | None = None
) -> bytes:
    """The object that a plugin reads: its own, with name, version, its capability arguments, and the result before it."""
    told = {key: value for key, value in plugin.config.items() if key != "capabilities"}
    told["name"] = network.name
    told["cniVersion"] = network.version
    if given := {name: capabilities[name] for name in sorted(plugin.capabilities) if name in capabilities}:
        told["runtimeConfig"] = given
    if previous is not None:
        told["prevResult"] = previous
    return json.dumps(told, ensure_ascii=False).encode()


def garbage_input(network: NetworkList, plugin: PluginConfig, valid: Sequence[str]) -> bytes:
    """What a plugin reads for GC: its object, and the attachments that are to stay (specification 1.1, GC)."""
    told = json.loads(plugin_input(network, plugin, {}))
    told["cni.dev/valid-attachments"] = [{"containerID": container_id, "ifname": INTERFACE} for container_id in valid]
    return json.dumps(told, ensure_ascii=False).encode()


def bits_per_second(annotation: str, text: str) -> int:
    """A Kubernetes quantity between 1k and 1P, as the annotations of bandwidth must be. Raises `InvalidArgument`."""
    field = f"config.annotations[{annotation}]"
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise InvalidArgument(field, f"{text!r} is no quantity")
    number, suffix, exponent = found.groups()
    value = Decimal(number) * (_SUFFIXES[suffix] if suffix else Decimal(10) ** int(exponent or 0))
    if not _LEAST <= value <= _MOST:
        raise InvalidArgument(field, f"{text!r} is not between 1k and 1P bits per second")
    return int(value)


def _bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    made = {}
    for annotation, direction in ((INGRESS, "ingress"), (EGRESS, "egress")):
        if text := annotations.get(annotation, ""):
            made[f"{direction}Rate"] = bits_per_second(annotation, text)
            made[f"{direction}Burst"] = _BURST
    return made
