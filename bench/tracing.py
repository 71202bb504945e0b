"""What traces cost: two servers over runc, one without traces and one that traces every RPC, taking turns.

Prints the pods a second that eight clients start, round by round and the median ratio, the milliseconds of a pod's start with
one client, and the CPU of the server for each pod. Nothing is asserted. The collector is a process that discards what it gets.
Needs root, runc, conmon, skopeo, docker-registry and busybox.

    python -m bench.tracing [--pods 40] [--rounds 9]
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from bench.node import PAUSE, WARM, Peer, Rounds, cleared, client_of, crishim, push_images, together
from crishim.model.image import ImageSpec
from crishim.testing.harness import sandbox_config
from tests.node.registry import serving

COLLECTOR = """
import concurrent.futures, sys, grpc
server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
batches = 0
def export(request, context):
    global batches
    batches += 1
    return b""
method = grpc.unary_unary_rpc_method_handler(export)
service = "opentelemetry.proto.collector.trace.v1.TraceService"
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
print(batches, flush=True)
"""


@contextlib.contextmanager
def collector() -> Iterator[int]:
    """The port of a collector, and at its end the number of batches that it got."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", COLLECTOR], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()
        print(f"the collector got {process.stdout.readline().strip()} batches")


def peer(place: Path, name: str, small: str, big: str, tracing: str) -> Peer:
    """A server of ours over runc."""
    own = place / name / "runc"
    own.mkdir(parents=True)
    made = attrs.evolve(crishim(own, small, big), name=name)
    with (own / "crishim.toml").open("a") as file:
        file.write(f"{tracing}\n[nri]\nenabled = false\n")
    return made


async def measured(peers: list[Peer], options: argparse.Namespace) -> None:
    """Take turns, and print."""
    rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
    spent: dict[str, float] = {peer.name: 0.0 for peer in peers}
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for each in peers:
            each.start()
            nodes.append(Rounds(each, await stack.enter_async_context(client_of(each))))
        for node in nodes:
            await node.client.pull_image(ImageSpec(image=node.peer.image), sandbox_config())
        for number in range(-WARM, options.pods):
            nodes.append(nodes.pop(0))
            for node in nodes:
                await node.whole_life(f"pod{number}")
                await asyncio.sleep(PAUSE)
        starts = {node.peer.name: statistics.median(node.whole[WARM:]) for node in nodes}
        for number in range(-1, options.rounds):
            nodes.append(nodes.pop(0))
            for node in nodes:
                before = node.peer.cpu()
                rate = await together(node, options.pods)
                if number >= 0:
                    rates[node.peer.name].append(rate)
                    spent[node.peer.name] += node.peer.cpu() - before
        for node in nodes:
            node.peer.stop()
    off, on = rates["off"], rates["traced"]
    for first, second in zip(off, on, strict=True):
        print(f"pods a second, 8 clients: {first:6.1f} off, {second:6.1f} traced, {second / first:.3f}")
    ratio = statistics.median(second / first for first, second in zip(off, on, strict=True))
    print(f"median of the ratios {ratio:.3f}; medians {statistics.median(off):.1f} and {statistics.median(on):.1f}")
    print(f"whole pod start, 1 client: {starts['off']:.1f} ms off, {starts['traced']:.1f} ms traced")
    each_pod = {name: seconds * 1e3 / options.pods / options.rounds for name, seconds in spent.items()}
    print(f"server CPU a pod, start and end: {each_pod['off']:.2f} ms off, {each_pod['traced']:.2f} ms traced")


async def main(options: argparse.Namespace) -> None:
    """Build both servers, and measure them."""
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} CPUs")
    with (
        tempfile.TemporaryDirectory(prefix="bench") as temporary,
        serving(Path(temporary) / "registry") as registry,
        collector() as port,
        contextlib.ExitStack() as stack,
    ):
        place = Path(temporary)
        place.chmod(0o711)
        small, big = push_images(place, registry)
        traced = f'[tracing]\nendpoint = "http://127.0.0.1:{port}"\nsampling = 1.0'
        peers = [peer(place, "off", small, big, ""), peer(place, "traced", small, big, traced)]
        for each in peers:
            stack.enter_context(cleared(each))
        await measured(peers, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pods", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    asyncio.run(main(parser.parse_args()))
