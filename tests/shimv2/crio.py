"""A CRI-O of its own, whose pods go through our shim (`runtime_type = "vm"`)."""

import contextlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from crishim.linux.mounts import mounts_below
from crishim.play import CriClient
from crishim.testing.suite.node import write_network
from crishim.testing.suite.programs import wait_for
from tests.node.world import processes
from tests.shimv2.servers import answering, leave_nothing

PROGRAMS = ("crio", "pinns", "runc", "conmon", "busybox")
SHIM = f"{sysconfig.get_path('scripts')}/containerd-shim-crishim-v2"

RUNC = """#!/bin/sh
for word; do
    case "$word" in --bundle=*) bundle=${word#--bundle=} ;; *) [ "$previous" = --bundle ] && bundle=$word ;; esac
    previous=$word
done
[ -z "$bundle" ] || sed -i 's/"oomScoreAdj": *-[0-9]*/"oomScoreAdj":0/' "$bundle/config.json"
exec runc "$@"
"""
"""runc where nobody may lower `oom_score_adj`, as CRI-O does for the sandbox."""


OURS, RUNC_ALONE = "crishim", "runc"
"""The handlers."""


class Crio:
    """One CRI-O in `folder`, with a handler of our shim and one of runc. `image` is also the pause.

    The registry `mirror` (host:port) has no TLS, and is asked in the place of `hosts`. Pods have the handler `default`;
    `runc` is the program of the other one.
    """

    def __init__(
        self, folder: Path, image: str, mirror: str, hosts: Sequence[str] = (), default: str = OURS, runc: str = ""
    ) -> None:
        self.folder, self.image, self.default = folder, image, default
        self.runc = runc or str(folder / "runc.sh")
        self.state = folder / "shim"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("hooks", "cdi", "keys"):
            (folder / name).mkdir()
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (folder / "registries.conf").write_text(
            "\n".join(f'[[registry]]\nprefix = "{host}"\nlocation = "{mirror}"\ninsecure = true' for host in (mirror, *hosts))
        )
        (folder / "runc.sh").write_text(RUNC)
        (folder / "runc.sh").chmod(0o755)
        (folder / "options.toml").write_text(f'BinaryName = "{folder}/runc.sh"\n')
        (folder / "crio.conf").write_text(self._configuration())

    def _configuration(self) -> str:
        place = self.folder
        return f"""[crio]
root = "{place}/lib"
runroot = "{place}/run"
storage_driver = "overlay"
log_dir = "{place}/logs"
version_file = "{place}/version"
clean_shutdown_file = "{place}/clean"
[crio.api]
listen = "{place}/cri.sock"
[crio.runtime]
default_runtime = "{self.default}"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
decryption_keys_path = "{place}/keys"
hooks_dir = ["{place}/hooks"]
cdi_spec_dirs = ["{place}/cdi"]
container_exits_dir = "{place}/exits"
container_attach_socket_dir = "{place}/attach"
namespaces_dir = "{place}/namespaces"
irqbalance_config_file = "{place}/irqbalance"
irqbalance_config_restore_file = "disable"
pinns_path = "{shutil.which("pinns")}"
[crio.runtime.runtimes.crishim]
runtime_path = "{SHIM}"
runtime_type = "vm"
runtime_root = "{place}/vm"
runtime_config_path = "{place}/options.toml"
[crio.runtime.runtimes.runc]
runtime_path = "{self.runc}"
runtime_root = "{place}/runc"
monitor_path = "{shutil.which("conmon")}"
[crio.image]
pause_image = "{self.image}"
pause_command = ""
signature_policy = "{place}/policy.json"
signature_policy_dir = "{place}/policies"
[crio.network]
network_dir = "{place}/net.d"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = true
nri_listen = "{place}/nri.sock"
nri_plugin_dir = "{place}/plugins"
nri_plugin_config_dir = "{place}/plugins.d"
"""

    @property
    def command(self) -> tuple[str, ...]:
        """What starts it."""
        place = self.folder
        options = (f"--config={place}/crio.conf", f"--config-dir={place}/crio.conf.d")
        return ("crio", *options, f"--registries-conf={place}/registries.conf")

    def start(self) -> None:
        """Start it."""
        environment = {**os.environ, "CRISHIM_SHIM_STATE": str(self.state)}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,  # where it has the shim started for what has no bundle
            )

    def wait(self) -> None:
        """Return when it listens."""
        wait_for("CRI-O", (self.folder / "cri.sock").exists)

    def stop(self) -> None:
        """Stop it; its pods keep running."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def cri(self) -> AbstractAsyncContextManager[CriClient]:
        """A client of its CRI, once that answers."""
        return answering(self.folder / "cri.sock")

    def leftovers(self) -> set[str]:
        """What pods have left: mounts, monitors, runc's records."""
        found = {f"mount {mount.path}" for mount in mounts_below(self.folder) if mount.path != f"{self.folder}/lib/overlay"}
        found |= {f"process {pid} {line}" for pid, line in processes(str(self.folder)) if line.startswith(("conmon", "sleep"))}
        return found | {f"runc's {path}" for path in (self.state / "runc").glob("**/state.json")}

    def close(self) -> None:
        """Leave nothing."""
        self.stop()
        leave_nothing(self.folder, self.state)


@contextlib.contextmanager
def crio(image: str, bridge: str, mirror: str = "", hosts: Sequence[str] = (), default: str = OURS) -> Iterator[Crio]:
    """A CRI-O that runs, gone afterwards, as `Crio`; its pods have addresses in 10.85.0.0/16."""
    folder = Path(tempfile.mkdtemp(prefix="crio"))
    folder.chmod(0o711)  # the root of a user namespace reaches its files in here
    made = Crio(folder, image, mirror or image.partition("/")[0], hosts, default)
    write_network(folder, bridge, "10.85.0.0/16")
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)
