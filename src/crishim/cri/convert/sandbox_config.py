"""PodSandboxConfig, the configuration of a sandbox."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import common
from crishim.cri.convert.common import MAX_PORT, absolute, between, decode_enum, decode_map
from crishim.cri.convert.resources import decode_resources, encode_resources
from crishim.cri.convert.security import decode_sandbox_context, encode_sandbox_context
from crishim.errors import InvalidArgument
from crishim.model.sandbox import (
    DNSConfig,
    LinuxPodSandboxConfig,
    PodSandboxConfig,
    PodSandboxMetadata,
    PortMapping,
    Protocol,
)

__all__ = ["decode_config", "encode_config"]


def decode_config(message: pb.PodSandboxConfig, path: str, *, named: bool = True) -> PodSandboxConfig:
    """A sandbox's configuration. Without `named` the metadata may be missing; its strings are then empty."""
    if message.HasField("metadata"):
        name = common.decode_sandbox(message.metadata, f"{path}.metadata")
    elif named:
        raise InvalidArgument(f"{path}.metadata", "is missing")
    else:
        name = PodSandboxMetadata(name="", namespace="", uid="")
    directory = message.log_directory
    return PodSandboxConfig(
        metadata=name,
        hostname=message.hostname,
        log_directory=absolute(directory, f"{path}.log_directory") if directory else "",
        dns_config=decode_dns(message.dns_config) if message.HasField("dns_config") else None,
        port_mappings=tuple(
            decode_port_mapping(mapping, f"{path}.port_mappings[{place}]")
            for place, mapping in enumerate(message.port_mappings)
        ),
        labels=decode_map(message.labels),
        annotations=decode_map(message.annotations),
        linux=decode_linux(message.linux, f"{path}.linux"),
    )


def encode_config(config: PodSandboxConfig) -> pb.PodSandboxConfig:
    """A sandbox's configuration."""
    return pb.PodSandboxConfig(
        metadata=common.encode_sandbox(config.metadata),
        hostname=config.hostname,
        log_directory=config.log_directory,
        dns_config=encode_dns(config.dns_config) if config.dns_config else None,
        port_mappings=[encode_port_mapping(mapping) for mapping in config.port_mappings],
        labels=config.labels,
        annotations=config.annotations,
        linux=encode_linux(config.linux),
    )


def decode_dns(message: pb.DNSConfig) -> DNSConfig:
    """The content of resolv.conf."""
    return DNSConfig(servers=tuple(message.servers), searches=tuple(message.searches), options=tuple(message.options))


def encode_dns(dns: DNSConfig) -> pb.DNSConfig:
    """The content of resolv.conf."""
    return pb.DNSConfig(servers=dns.servers, searches=dns.searches, options=dns.options)


def decode_port_mapping(message: pb.PortMapping, path: str) -> PortMapping:
    """A port of the pod and of the node; 0 is none."""
    return PortMapping(
        protocol=decode_enum(Protocol, message.protocol, f"{path}.protocol"),
        container_port=between(message.container_port, 0, MAX_PORT, f"{path}.container_port"),
        host_port=between(message.host_port, 0, MAX_PORT, f"{path}.host_port"),
        host_ip=message.host_ip,
    )


def encode_port_mapping(mapping: PortMapping) -> pb.PortMapping:
    """A port of the pod and of the node."""
    return pb.PortMapping(
        protocol=pb.Protocol.ValueType(mapping.protocol),
        container_port=mapping.container_port,
        host_port=mapping.host_port,
        host_ip=mapping.host_ip,
    )


def decode_linux(message: pb.LinuxPodSandboxConfig, path: str) -> LinuxPodSandboxConfig:
    """The Linux part; an absent one is empty."""
    return LinuxPodSandboxConfig(
        cgroup_parent=message.cgroup_parent,
        security_context=decode_sandbox_context(message.security_context, f"{path}.security_context"),
        sysctls=decode_map(message.sysctls),
        overhead=decode_resources(message.overhead, f"{path}.overhead") if message.HasField("overhead") else None,
        resources=decode_resources(message.resources, f"{path}.resources") if message.HasField("resources") else None,
    )


def encode_linux(linux: LinuxPodSandboxConfig) -> pb.LinuxPodSandboxConfig:
    """The Linux part."""
    return pb.LinuxPodSandboxConfig(
        cgroup_parent=linux.cgroup_parent,
        security_context=encode_sandbox_context(linux.security_context),
        sysctls=linux.sysctls,
        overhead=encode_resources(linux.overhead) if linux.overhead else None,
        resources=encode_resources(linux.resources) if linux.resources else None,
    )
