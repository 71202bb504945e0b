"""Specs, plugins of shell lines, and a node for real plugins: a network namespace that is removed as a whole."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crishim.cni.network import CniNetwork
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, PortMapping, SandboxSpec
from crishim.model.values import SandboxId

REAL = Path("/usr/lib/cni")


def sandbox(
    name: str = "a", netns: str = "", ports: tuple[PortMapping, ...] = (), annotations: dict[str, str] | None = None
) -> SandboxSpec:
    config = PodSandboxConfig(
        metadata=PodSandboxMetadata(name=name, namespace="ns", uid=f"uid-{name}"),
        port_mappings=ports,
        annotations=annotations or {},
    )
    return SandboxSpec(id=SandboxId(name * 8), config=config, netns=netns)


class Node:
    """The three folders of a CniNetwork, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "net.d"
        self.programs = folder / "bin"
        self.cache = folder / "cache"
        for path in (self.config, self.programs):
            path.mkdir()
        self.network = CniNetwork(self.config, (self.programs,), self.cache)

    def plugin(self, name: str, script: str) -> None:
        """A plugin of shell lines. What it is called with is written to `<name>.calls` and `<name>.<command>.json`."""
        program = self.programs / name
        program.write_text(
            f"""#!/bin/sh
cd '{self.folder}'
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >> {name}.calls
echo "{name} $CNI_COMMAND" >> order
cat > {name}.$CNI_COMMAND.json
{script}
"""
        )
        program.chmod(0o755)

    def conflist(self, *plugins: dict[str, Any], file: str = "10-test.conflist", version: str = "1.0.0", **keys: Any) -> None:
        content = {"cniVersion": version, "name": "test", "plugins": list(plugins), **keys}
        (self.config / file).write_text(json.dumps(content))

    def input_of(self, plugin: str, command: str) -> Any:
        """What a plugin read last."""
        return json.loads((self.folder / f"{plugin}.{command}.json").read_text())

    def order(self) -> list[str]:
        """PluginConfig and command of every call so far."""
        path = self.folder / "order"
        return path.read_text().splitlines() if path.exists() else []

    def cached(self) -> list[str]:
        """The files of the cache."""
        return sorted(path.name for path in self.cache.rglob("*") if path.is_file())


@contextmanager
def namespace(path: Path) -> Iterator[str]:
    """A network namespace pinned at `path`."""
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "true"], check=True)
    try:
        yield str(path)
    finally:
        subprocess.run(["umount", path], check=False, capture_output=True)
        path.unlink(missing_ok=True)


def run_in(netns: str, *command: str) -> str:
    """The output of a command in a network namespace."""
    return subprocess.run(["nsenter", f"--net={netns}", *command], check=True, capture_output=True, text=True).stdout


def real_plugins(node: Node, host: str) -> None:
    """Debian's plugins, each run inside the namespace `host` as if that were the node's."""
    for program in REAL.iterdir():
        wrapper = node.programs / program.name
        wrapper.write_text(f"#!/bin/sh\nexec nsenter --net={host} {program}\n")
        wrapper.chmod(0o755)
    run_in(host, "ip", "link", "set", "lo", "up")
