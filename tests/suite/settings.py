"""The configuration of a containerd, in the form of its release: 1.6's tables are others than 2's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from tests.suite import build


@attrs.frozen
class Release:
    """A containerd: the distribution's on PATH, or one that `build` builds."""

    name: str

    @property
    def modern(self) -> bool:
        """Whether it is containerd 2."""
        return self.name.startswith("v2")

    @property
    def missing(self) -> str:
        """How to get it; empty if it is there."""
        return build.missing(self.name) if self.name in build.MODULES else ""

    def path(self, rest: str) -> str:
        """PATH with its programs."""
        return f"{build.CACHE / self.name}:{rest}" if self.name in build.MODULES else rest


DISTRIBUTION = Release("distribution")
MIDDLE, BEFORE_BOOTSTRAP, NEWEST = map(Release, build.MODULES)
"""1.7, a release of 2 that does not send BootstrapParams yet, and the newest."""
RELEASES = (DISTRIBUTION, MIDDLE, BEFORE_BOOTSTRAP, NEWEST)


@attrs.frozen(kw_only=True)
class Handler:
    """A runtime handler of its CRI. `sandboxer` is containerd 2's: `podsandbox` or `shim`."""

    name: str
    runtime: str
    options: Mapping[str, object] = attrs.field(factory=dict)
    sandboxer: str = ""


@attrs.frozen(kw_only=True)
class Settings:
    """A containerd below `folder`, whose CRI pulls from the registry `mirror` (host:port) in the place of `hosts`."""

    folder: Path
    release: Release
    handlers: Sequence[Handler]
    sandbox_image: str
    hosts: Sequence[str]
    mirror: str
    networks: Path

    def write(self) -> Path:
        """Write the configuration; its path. The first handler is the default one."""
        for host in self.hosts:
            file = self.folder / "hosts" / host / "hosts.toml"
            file.parent.mkdir(parents=True)
            file.write_text(
                f'server = "http://{self.mirror}"\n[host."http://{self.mirror}"]\ncapabilities = ["pull", "resolve"]\n'
            )
        config = self.folder / "config.toml"
        config.write_text(self._modern() if self.release.modern else self._old())
        return config

    def _old(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""version = 2
root = "{self.folder}/lib"
state = "{self.folder}/run"
[grpc]
address = "{self.folder}/c.sock"
[{cri}]
sandbox_image = "{self.sandbox_image}"
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
stream_server_port = "0"
[{cri}.containerd]
default_runtime_name = "{self.handlers[0].name}"
{self._runtimes(f"{cri}.containerd.runtimes")}
[{cri}.cni]
conf_dir = "{self.networks}"
bin_dir = "/usr/lib/cni"
[{cri}.registry]
config_path = "{self.folder}/hosts"
"""

    def _modern(self) -> str:
        runtime = "plugins.'io.containerd.cri.v1.runtime'"
        images = "plugins.'io.containerd.cri.v1.images'"
        return f"""version = 3
root = "{self.folder}/lib"
state = "{self.folder}/run"
[grpc]
address = "{self.folder}/c.sock"
[{images}]
[{images}.pinned_images]
sandbox = "{self.sandbox_image}"
[{images}.registry]
config_path = "{self.folder}/hosts"
[{runtime}]
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
netns_mounts_under_state_dir = true
[{runtime}.containerd]
default_runtime_name = "{self.handlers[0].name}"
{self._runtimes(f"{runtime}.containerd.runtimes")}
[{runtime}.cni]
conf_dir = "{self.networks}"
bin_dirs = ["/usr/lib/cni"]
[plugins.'io.containerd.grpc.v1.cri']
stream_server_port = "0"
[plugins.'io.containerd.shim.v1.manager']
socket_dir = "{self.folder}/s"
[plugins.'io.containerd.nri.v1.nri']
socket_path = "{self.folder}/nri.sock"
plugin_path = "{self.folder}/nri/plugins"
plugin_config_path = "{self.folder}/nri/conf.d"
"""

    def _runtimes(self, table: str) -> str:
        lines = []
        for handler in self.handlers:
            lines += [f"[{table}.{handler.name}]", f'runtime_type = "{handler.runtime}"']
            if handler.sandboxer:
                lines.append(f'sandboxer = "{handler.sandboxer}"')
            if handler.options:
                lines.append(f"[{table}.{handler.name}.options]")
            lines += [f"{name} = {json.dumps(value)}" for name, value in handler.options.items()]
        return "\n".join(lines)
