"""Pods with a network of CNI plugins, beside the plugins alone: what crishim adds to them.

Prints medians of one machine, in turns; nothing is asserted. Needs root, runc, conmon, busybox and the CNI plugins.

    python -m bench.cni [--pods 30]
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from crishim.cni.network import CniNetwork
from crishim.testing import Harness
from tests.backends.runc.world import node

PLUGINS = Path("/usr/lib/cni")
BRIDGE = "crbench0"


def network(folder: Path) -> list[dict[str, Any]]:
    """A bridge with addresses, host ports and the firewall's rules."""
    ranges = [[{"subnet": "10.86.0.0/16"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": str(folder / "addresses")}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True, "ipam": ipam}
    return [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}, {"type": "firewall"}]


def alone(folder: Path, number: int) -> tuple[float, float]:
    """Seconds of the plugins' ADD and of their DEL, run one after the other by nothing but this."""
    name = f"crbench{number}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    environment = {"CNI_CONTAINERID": name, "CNI_NETNS": f"/run/netns/{name}", "CNI_IFNAME": "eth0", "CNI_PATH": str(PLUGINS)}
    environment["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    result: dict[str, Any] | None = None
    plugins = network(folder)
    try:
        begun = time.perf_counter()
        for plugin in plugins:
            output = call("ADD", plugin, result, environment)
            result = json.loads(output) if output else result
        added = time.perf_counter()
        for plugin in reversed(plugins):
            call("DEL", plugin, result, environment)
        return added - begun, time.perf_counter() - added
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def call(verb: str, plugin: dict[str, Any], result: dict[str, Any] | None, environment: dict[str, str]) -> bytes:
    """Run one plugin."""
    config = {"cniVersion": "1.0.0", "name": "alone", **plugin, **({"prevResult": result} if result else {})}
    command = [str(PLUGINS / plugin["type"])]
    done = subprocess.run(
        command, input=json.dumps(config).encode(), env={**environment, "CNI_COMMAND": verb}, stdout=subprocess.PIPE, check=True
    )
    return done.stdout


async def pod(world: Harness, name: str) -> tuple[float, float]:
    """Seconds of RunPodSandbox, and of StopPodSandbox with RemovePodSandbox."""
    begun = time.perf_counter()
    sandbox_id = await world.run_sandbox(name)
    run = time.perf_counter()
    await world.services.sandboxes.stop(sandbox_id)
    await world.services.sandboxes.remove(sandbox_id)
    return run - begun, time.perf_counter() - run


async def main(pods: int) -> None:
    """Measure in turns."""
    with tempfile.TemporaryDirectory(prefix="cni") as name:
        folder = Path(name)
        (folder / "net.d").mkdir()
        conflist = {"cniVersion": "1.0.0", "name": "bench", "plugins": network(folder)}
        (folder / "net.d" / "10-bench.conflist").write_text(json.dumps(conflist))
        times: dict[str, list[tuple[float, float]]] = {"without a network": [], "with CNI": [], "the plugins alone": []}
        async with contextlib.AsyncExitStack() as stack:
            for kind in ("a", "b"):
                (folder / kind).mkdir()
            cni = CniNetwork(folder / "net.d", [PLUGINS], folder / "cache")
            await cni.begin()
            stack.push_async_callback(cni.close)
            plain = await stack.enter_async_context(node(folder / "a", runtime="runc"))
            connected = await stack.enter_async_context(node(folder / "b", runtime="runc", network=cni))
            for number in range(pods):
                times["without a network"].append(await pod(plain, f"a{number}"))
                times["with CNI"].append(await pod(connected, f"b{number}"))
                times["the plugins alone"].append(await asyncio.to_thread(alone, folder, number))
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False)
    for kind, measured in times.items():
        run, end = (statistics.median(values) * 1000 for values in zip(*measured, strict=True))
        print(f"{kind:20} RunPodSandbox or ADD {run:7.1f} ms   Stop and Remove or DEL {end:7.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=30)
    asyncio.run(main(parser.parse_args().pods))
