"""Lists of stats on a node full of pods, ours beside containerd's: milliseconds of a call, and CPU milliseconds of the server.

What containerd's shims spend for its answers is not counted. Prints medians of calls that take turns; nothing is asserted.
Needs root, containerd, runc, crun, conmon, skopeo, docker-registry and busybox.

    python -m bench.stats [--pods 100] [--calls 15] [--only containerd,runc]
"""

import argparse
import asyncio
import contextlib
import statistics
import time
from typing import Any, Final

import grpc.aio

from bench.node import Peer, Rounds, client_of, peers_for
from bench.report import Row, markdown, save
from crishim.cri import pb
from crishim.model.image import ImageSpec
from crishim.testing.harness import sandbox_config

CALLS: Final[dict[str, Any]] = {
    "ListPodSandboxStats": pb.ListPodSandboxStatsRequest(),
    "ListContainerStats": pb.ListContainerStatsRequest(),
}


async def measured(peers: list[Peer], pods: int, calls: int) -> list[Row]:
    """Rows for each call: its time, and the server's CPU time."""
    spent: dict[tuple[str, str], list[tuple[float, float]]] = {}
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for peer in peers:
            peer.start()
            node = Rounds(peer, await stack.enter_async_context(client_of(peer)))
            await node.client.pull_image(ImageSpec(image=peer.image), sandbox_config())
            nodes.append((node, await stack.enter_async_context(grpc.aio.insecure_channel(f"unix://{peer.place}/cri.sock"))))
        there = {node.peer.name: [await node.start(f"pod{number}") for number in range(pods)] for node, _ in nodes}
        for _ in range(calls):
            nodes.append(nodes.pop(0))
            for name, request in CALLS.items():
                for node, channel in nodes:
                    cpu, begun = node.peer.cpu(), time.perf_counter()
                    await bare(channel, name)(request.SerializeToString())
                    took = time.perf_counter() - begun
                    await asyncio.sleep(0.02)  # for what a server does after its answer
                    spent.setdefault((name, node.peer.name), []).append((took * 1000, (node.peer.cpu() - cpu) * 1000))
        for node, _ in nodes:
            for pod in there[node.peer.name]:
                await node.end(*pod)
    rows = []
    for name in CALLS:
        times = {peer.name: [statistics.median(part) for part in zip(*spent[name, peer.name], strict=True)] for peer in peers}
        rows.append(Row(f"{name} of {pods}", "ms", {peer: value[0] for peer, value in times.items()}))
        rows.append(Row(f"{name} of {pods}: the server's CPU", "ms", {peer: value[1] for peer, value in times.items()}))
    return rows


def bare(channel: grpc.aio.Channel, name: str) -> Any:
    """A method of the runtime service, with bytes in and out."""
    return channel.unary_unary(f"/runtime.v1.RuntimeService/{name}", request_serializer=bytes, response_deserializer=bytes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--only", default="containerd,runc")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    with peers_for(options.only.split(",")) as (_, peers):
        rows = asyncio.run(measured(peers, options.pods, options.calls))
    print(markdown(rows))
    save(options.json, rows)


if __name__ == "__main__":
    main()
