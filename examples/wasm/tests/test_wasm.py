"""The exam for pods, and the same class behind containerd; needs root, and clang with wasi-libc for the module of the exam."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
from wasm_backend import WasmRuntime, plugin

from crishim import Backend, BackendContext
from crishim.interfaces.seats import Rootfs, RootfsProvider
from crishim.testing.conformance import BackendConformance, Candidate, Fact, Programs
from crishim.testing.conformance.runtimes import OciRuntimeConformance

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root"),
    pytest.mark.skipif(
        shutil.which("clang") is None or not Path("/usr/lib/wasm32-wasi").exists(),
        reason="needs clang for WASI: apt-get install clang lld wasi-libc libclang-rt-dev-wasm32",
    ),
]


class Modules(Programs):
    """The commands of exam.c; a module can neither ignore a signal nor see a namespace, a user or a port."""

    ready = ""

    def _run(self, *words: str) -> tuple[str, ...]:
        return ("/exam.wasm", *words)

    def prints(self, text: str) -> tuple[str, ...]:
        return self._run("print", text)

    def complains(self, text: str) -> tuple[str, ...]:
        return self._run("complain", text)

    def fails(self, code: int) -> tuple[str, ...]:
        return self._run("fail", str(code))

    def sleeps(self) -> tuple[str, ...]:
        return self._run("sleep")

    def stubborn(self) -> None:
        return None

    def copies(self) -> tuple[str, ...]:
        return self._run("cat")

    def prints_variable(self, variable: str) -> tuple[str, ...]:
        return self._run("variable", variable)

    def ticks(self, text: str) -> tuple[str, ...]:
        return self._run("tick", text)

    def shows(self, fact: Fact) -> None:
        return None

    def reads(self, path: str) -> tuple[str, ...]:
        return self._run("read", path)

    def reads_after(self, event: str, path: str) -> tuple[str, ...]:
        return self._run("after", event, path)

    def writes(self, path: str) -> tuple[str, ...]:
        return self._run("write", path)

    def opens(self, path: str) -> None:
        return None

    def exhausts(self) -> None:
        return None

    def counts(self) -> tuple[str, ...]:
        return self._run("count")

    def prints_much(self, size: int) -> tuple[str, ...]:
        return self._run("much", str(size))

    def prints_later(self, first: str, later: str, code: int) -> tuple[str, ...]:
        return self._run("later", first, later, str(code))

    def leaves_a_child(self, text: str) -> None:
        return None

    def serves(self, port: int, text: str) -> None:
        return None


class Roots(RootfsProvider):
    """A root with the module of the exam for each container."""

    def __init__(self, folder: Path, module: Path) -> None:
        self._folder, self._module = folder, module

    async def prepare(self, container_id: str, image_id: str, userns: str = "", label: str = "") -> Rootfs:
        root = self._folder / container_id
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self._module, root / "exam.wasm")
        return Rootfs(path=str(root), upper=str(root))

    async def view(self, container_id: str, image_id: str, userns: str = "", label: str = "") -> Path:
        raise NotImplementedError

    async def release(self, container_id: str) -> None:
        shutil.rmtree(self._folder / container_id, ignore_errors=True)


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module of the exam."""
    built = tmp_path_factory.mktemp("module") / "exam.wasm"
    subprocess.run(["clang", "--target=wasm32-wasi", "-O1", "-o", str(built), str(HERE / "exam.c")], check=True)
    return built


class TestPods(BackendConformance):
    """Pods keep the contract, over restarts, too."""

    needs_node = True
    programs: ClassVar[Programs] = Modules()
    ignores = plugin.ignores

    @pytest.fixture(autouse=True)
    def with_module(self, module: Path) -> None:
        self._module = module

    def candidate(self, folder: Path) -> Candidate:
        candidate = super().candidate(folder)
        return attrs.evolve(candidate, context=attrs.evolve(candidate.context, rootfs=Roots(folder / "roots", self._module)))

    async def make_backend(self, context: BackendContext) -> Backend:
        return plugin.build(context)


class TestBundles(OciRuntimeConformance):
    """Bundles keep the contract, as under containerd. The checks of named pipes run a shell."""

    programs: ClassVar[Programs] = Modules()
    leaves_out = frozenset({"pipes", "pipes_without_a_monitor"})

    @pytest.fixture(autouse=True)
    def with_module(self, module: Path) -> None:
        self._module = module

    async def make_runtime(self, folder: Path) -> WasmRuntime:
        return WasmRuntime(folder)

    def write_bundle(self, bundle: Path, argv: tuple[str, ...]) -> None:
        (bundle / "rootfs").mkdir()
        shutil.copy2(self._module, bundle / "rootfs" / "exam.wasm")
        user = {"uid": 0, "gid": 0}
        process = {"args": list(argv), "env": [], "user": user}
        config = {"process": process, "root": {"path": "rootfs"}, "mounts": [], "linux": {}}
        (bundle / "config.json").write_text(json.dumps(config))


@pytest.mark.skipif(shutil.which("ctr") is None, reason="needs containerd: apt-get install containerd")
def test_under_containerd(module: Path, tmp_path: Path) -> None:
    """`ctr run` starts the module by the shim, and sees its output and its exit code."""
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy2(module, root / "exam.wasm")
    folder = Path(tempfile.mkdtemp(prefix="wasm"))  # a socket's path is short
    shim = folder / "containerd-shim-wasm-v1"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m wasm_backend "$@"\n')
    shim.chmod(0o755)
    (folder / "config.toml").write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/run"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{folder}/c.sock"\n'
    )
    environment = {**os.environ, "CRISHIM_SHIM_STATE": f"{folder}/shim"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(["containerd", "--config", f"{folder}/config.toml"], stderr=log, env=environment)
    try:
        for _ in range(300):
            if (folder / "c.sock").exists():
                break
            time.sleep(0.1)
        run = ("ctr", "--address", f"{folder}/c.sock", "run", "--rm", "--rootfs", "--runtime", str(shim), str(root))
        done = subprocess.run([*run, "one", "/exam.wasm", "print", "hello"], capture_output=True, timeout=60, check=False)
        assert (0, b"hello\n") == (done.returncode, done.stdout), done.stderr
        done = subprocess.run([*run, "two", "/exam.wasm", "fail", "7"], capture_output=True, timeout=60, check=False)
        assert done.returncode == 7, done.stderr
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
