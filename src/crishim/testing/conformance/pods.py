"""Checks of what the containers of a pod share, and what two pods do not: network, IPC, names, addresses."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import Unavailable
from crishim.interfaces.capabilities import ByteStream, SupportsPortForward, SupportsStats
from crishim.model.features import Feature
from crishim.model.sandbox import DNSConfig, PortMapping
from crishim.model.security import LinuxContainerSecurityContext, NamespaceMode, NamespaceOption
from crishim.testing.conformance.candidate import World, equal, patiently
from crishim.testing.conformance.examine import Check
from crishim.testing.conformance.logs import output_of
from crishim.testing.conformance.offers import as_capable
from crishim.testing.conformance.programs import Fact, needed

_PORT: Final = 18080


async def check_pod_has_its_own_network(world: World) -> None:
    """A pod has the network namespace that was made for it, never the node's, unless it requests that."""
    argv = world.shows(Fact.NETWORK)
    sandbox = await world.sandbox()
    seen = await output_of(world, sandbox, argv)
    assert seen != os.readlink("/proc/self/ns/net"), "the pod is on the node's network"  # noqa: PTH115 - it is no path
    if sandbox.netns and Path(sandbox.netns).exists():
        equal(f"net:[{Path(sandbox.netns).stat().st_ino}]", seen)


async def check_containers_of_a_pod_share(world: World) -> None:
    """The containers of a pod have the same network and IPC namespaces."""
    sandbox = await world.sandbox()
    for fact in (Fact.NETWORK, Fact.IPC):
        argv = world.shows(fact)
        seen = [await output_of(world, sandbox, argv) for _ in range(2)]
        assert seen[0] == seen[1], f"two containers of a pod have another {fact} each"


async def check_pods_share_nothing(world: World) -> None:
    """Two pods have network and IPC namespaces of their own."""
    one, other = await world.sandbox(), await world.sandbox()
    for fact in (Fact.NETWORK, Fact.IPC):
        argv = world.shows(fact)
        assert await output_of(world, one, argv) != await output_of(world, other, argv), f"two pods have the same {fact}"


async def check_pid_namespace_can_be_the_pods(world: World) -> None:
    """namespace_options.pid POD: the containers of the pod share one pid namespace."""
    argv = world.shows(Fact.PROCESSES)
    config = world.sandbox_spec().config
    options = NamespaceOption(pid=NamespaceMode.POD)
    security = attrs.evolve(config.linux.security_context, namespace_options=options)
    shared = attrs.evolve(config, linux=attrs.evolve(config.linux, security_context=security))
    sandbox = await world.sandbox(config=shared)
    own = LinuxContainerSecurityContext(namespace_options=options)
    assert await output_of(world, sandbox, argv, security=own) == await output_of(world, sandbox, argv, security=own)


async def check_host_name_is_the_pods(world: World) -> None:
    """hostname: the host name in every container of the pod."""
    argv = world.shows(Fact.HOSTNAME)
    sandbox = await world.sandbox()
    equal(sandbox.config.hostname, await output_of(world, sandbox, argv))


async def check_resolver_is_the_pods(world: World) -> None:
    """dns_config: the content of /etc/resolv.conf, unless the plug-in says that it is ignored."""
    argv = needed(world.programs.reads("/etc/resolv.conf"), "read a file")
    dns = DNSConfig(servers=("192.0.2.53",), searches=("exam.example",), options=("ndots:5",))
    sandbox = await world.sandbox(config=attrs.evolve(world.sandbox_spec().config, dns_config=dns))
    lines = (await output_of(world, sandbox, argv)).split("\n")
    assert {"nameserver 192.0.2.53", "search exam.example", "options ndots:5"} <= set(lines)


async def check_host_network_is_the_nodes(world: World) -> None:
    """namespace_options.network NODE: the node's network namespace."""
    argv = world.shows(Fact.NETWORK)
    config = world.sandbox_spec().config
    options = attrs.evolve(config.linux.security_context.namespace_options, network=NamespaceMode.NODE)
    security = attrs.evolve(config.linux.security_context, namespace_options=options)
    hosted = attrs.evolve(config, hostname="", linux=attrs.evolve(config.linux, security_context=security))
    sandbox = await world.sandbox(config=hosted)
    own = LinuxContainerSecurityContext(namespace_options=options)
    seen = await output_of(world, sandbox, argv, security=own)
    assert os.readlink("/proc/self/ns/net") == seen  # noqa: PTH115 - it is no path


async def check_port_leads_to_the_pod(world: World) -> None:
    """dial: a connection to the port of a program of the pod, in both of its directions."""
    argv = needed(world.programs.serves(_PORT, "served"), "listen on a port")
    backend = as_capable(world, SupportsPortForward)
    sandbox = await world.sandbox()
    await world.run(sandbox, argv)

    async def dial() -> ByteStream:
        while True:
            try:
                return await backend.dial(sandbox.id, _PORT)
            except Unavailable:
                await asyncio.sleep(0.05)

    stream = await patiently(dial())
    try:
        assert b"served\n" == await patiently(stream.read())
    finally:
        await stream.close()


async def check_host_port_leads_to_the_pod(world: World) -> None:
    """port_mappings.host_port: the port number on the host; a connection to it reaches container_port of the pod."""
    argv = needed(world.programs.serves(_PORT, "served"), "listen on a port")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    mapping = PortMapping(container_port=_PORT, host_port=port)
    sandbox = await world.sandbox(config=attrs.evolve(world.sandbox_spec().config, port_mappings=(mapping,)))
    await world.run(sandbox, argv)
    equal(b"served\n", await patiently(_line_from(port)))


async def _line_from(port: int) -> bytes:
    """The first line that a program behind a port of this machine sends, once it does."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                line = await reader.readline()
            if line:
                return line
        await asyncio.sleep(0.05)


async def check_usage_grows(world: World) -> None:
    """container_usage: CPU time never decreases, and memory is in use while the container runs."""
    backend = as_capable(world, SupportsStats)
    spec = await world.run_ready(await world.sandbox(), world.programs.sleeps())
    first = again = await patiently(backend.container_usage(spec.id))
    async with asyncio.timeout(5):  # a process that has just begun another program uses nothing for a moment
        while (memory := again.memory) is not None and not (memory.usage_bytes or memory.working_set_bytes):
            again = await patiently(backend.container_usage(spec.id))
    again = await patiently(backend.container_usage(spec.id))
    if first.cpu is not None and again.cpu is not None:
        assert (first.cpu.usage_core_nano_seconds or 0) <= (again.cpu.usage_core_nano_seconds or 0)


POD_FEATURES: Final[Mapping[Check, Feature]] = {
    check_host_network_is_the_nodes: Feature.HOST_NETWORK,
    check_host_port_leads_to_the_pod: Feature.HOST_PORTS,
}
"""The feature of each check that is about one."""

POD_NEEDS: Final[Mapping[Check, type]] = {
    check_port_leads_to_the_pod: SupportsPortForward,
    check_usage_grows: SupportsStats,
}
"""The capability of each check that is about one."""
