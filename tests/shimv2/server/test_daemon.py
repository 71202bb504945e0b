"""The shim server, with a real containerd as its client and runc behind it."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import crishim
from crishim._proto import shim_runc_pb2 as runc_pb
from crishim._proto import shim_task_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.oci.features import config_features
from crishim.shimv2.server.launcher import FAILED, question
from crishim.shimv2.wire.messages import packed
from crishim.testing.harness import container_config, sandbox_config
from crishim.ttrpc.client import Client
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, images, processes
from tests.shimv2.containerd import PROGRAMS, Containerd, containerd

pytestmark = [pytest.mark.node, needs(*PROGRAMS)]

SRC = Path(crishim.__file__).parents[1]


@pytest.fixture
def node() -> Iterator[Containerd]:
    with containerd() as containerd_node:
        yield containerd_node


def eventually(true: Callable[[], bool]) -> bool:
    """Whether something comes true within half a minute."""
    end = time.monotonic() + 30
    while not (done := true()) and time.monotonic() < end:
        time.sleep(0.05)
    return done


def test_a_whole_life(node: Containerd) -> None:
    """`ctr run` sees the output, the error output and the exit code, through one daemon, and nothing is left."""
    for number in range(3):
        done = node.run(f"t{number}", "sh", "-c", "echo out; echo err >&2; exit 3", options=("--rm",))
        assert (3, b"out\n") == (done.returncode, done.stdout)
        assert done.stderr.startswith(b"err\n")
    assert node.daemon()
    assert eventually(lambda: not node.leftovers())
    assert b"" == (node.state / "log").read_bytes()


def test_beside_the_first_process(node: Containerd) -> None:
    """Execs have their own process, streams and exit; pause, metrics and signals reach the task."""
    assert 0 == node.run("t1", "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done", options=("-d",)).returncode
    done = node.ctr("task", "exec", "--exec-id", "x", "--cwd", "/bin", "t1", "sh", "-c", "pwd; echo err >&2; exit 4")
    assert (4, b"/bin\n") == (done.returncode, done.stdout)
    pid = node.tasks()["t1"][0]
    assert str(pid).encode() in node.ctr("task", "ps", "t1").stdout
    assert b"memory" in node.ctr("task", "metrics", "t1").stdout
    assert 0 == node.ctr("task", "pause", "t1").returncode
    assert "PAUSED" == node.tasks()["t1"][1]
    assert 0 == node.ctr("task", "resume", "t1").returncode
    assert 0 != node.ctr("task", "rm", "t1").returncode
    assert 0 == node.ctr("task", "kill", "t1").returncode
    assert eventually(lambda: "STOPPED" == node.tasks()["t1"][1])
    assert 0 != node.ctr("task", "kill", "t1").returncode
    assert b"9" in node.ctr("task", "rm", "t1").stderr
    assert {} == node.tasks()
    assert eventually(lambda: not node.leftovers())


def test_the_end_of_an_exec_s_input(node: Containerd) -> None:
    """`echo x | ctr task exec ... cat` ends, though ctr is at the end of its input as soon as anybody reads it."""
    assert 0 == node.run("t", "sleep", "600", options=("-d",)).returncode
    for number, sent in enumerate((b"x\n", b"y" * 200_000) * 4):
        done = node.ctr("task", "exec", "--exec-id", f"e{number}", "t", "cat", stdin=sent)
        assert (0, sent) == (done.returncode, done.stdout)
    node.ctr("task", "kill", "--signal", "KILL", "t")
    node.ctr("task", "rm", "t")


def test_the_file_of_a_handlers_options(node: Containerd, tmp_path: Path) -> None:
    """An options file names the runtime's state folder; an unknown key is refused by its name."""
    file, own = tmp_path / "options.toml", node.state / "runc" / "mine"
    file.write_text(f'Root = "{own}"\n')
    options = ("-d", "--runtime-config-path", str(file))
    assert 0 == node.run("t", "sleep", "600", options=options).returncode
    assert (own / "default" / "t" / "state.json").exists()
    node.ctr("task", "kill", "--signal", "KILL", "t")
    node.ctr("task", "rm", "t")
    file.write_text("Rooot = 1\n")
    assert b"options.Rooot" in node.run("u", "true", options=options).stderr


def test_a_terminal(node: Containerd) -> None:
    """A task with a terminal has one."""
    run = f"ctr --address {node.folder}/c.sock run --rm -t --rootfs --runtime io.containerd.crishim.v2 --env PATH=/bin"
    command = [
        "timeout",
        "--signal=KILL",
        "30",
        "script",
        "-qec",
        f"{run} {node.root} t1 sh -c 'test -t 1 && echo yes; exit 5'",
        "/dev/null",
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (5, b"yes") == (done.returncode, done.stdout.strip(b"\x00\x04\b^@D\r\n"))


def test_processes_that_outlive_the_first(node: Containerd) -> None:
    """In a shared process namespace they are ended with the first one, before the task is deleted."""
    assert 0 == node.run("t0", "sleep", "600", options=("-d",)).returncode
    options = ("-d", "--with-ns", f"pid:/proc/{node.tasks()['t0'][0]}/ns/pid")
    assert 0 == node.run("t1", "sh", "-c", "sleep 7654321 & echo ready; exit 3", options=options).returncode
    assert eventually(lambda: "STOPPED" == node.tasks()["t1"][1])
    assert [] == [pid for pid, line in processes("7654321") if line.startswith("sleep")]
    assert b"3" in node.ctr("task", "rm", "t1").stderr
    assert "RUNNING" == node.tasks()["t0"][1]
    node.ctr("task", "rm", "-f", "t0")
    assert eventually(lambda: not node.leftovers())


def test_a_program_that_is_not_there(node: Containerd) -> None:
    """The runtime's message is returned, and the task can be created again."""
    done = node.run("t1", "/no/such/program", options=("--rm",))
    assert done.returncode
    assert b"/no/such/program" in done.stderr
    assert 0 == node.run("t1", "true", options=("--rm",)).returncode
    assert eventually(lambda: not node.leftovers())


def test_containerd_comes_back(node: Containerd) -> None:
    """While containerd is down tasks keep running, and an exit in the meantime is known to the next one."""
    for name, argv in (("lives", ("sleep", "600")), ("ends", ("sh", "-c", "while test -e /go; do sleep 0.05; done; exit 7"))):
        (node.root / "go").touch()
        assert 0 == node.run(name, *argv, options=("-d",)).returncode
    node.stop()
    (node.root / "go").unlink()
    node.start()
    assert eventually(lambda: node.tasks()["ends"][1] == "STOPPED")
    assert "RUNNING" == node.tasks()["lives"][1]
    assert b"7" in node.ctr("task", "rm", "ends").stderr
    assert b"137" in node.ctr("task", "rm", "-f", "lives").stderr
    assert eventually(lambda: not node.leftovers())


def test_the_daemon_is_killed(node: Containerd) -> None:
    """Containerd takes that for dead shims and asks for each task: every process and mount goes, and new tasks can be run.

    A bundle is containerd's own: where it had not the patience for an answer, it is removed when containerd is started again.
    """
    with ThreadPoolExecutor(8) as clients:
        done = clients.map(lambda number: node.run(f"t{number}", "sleep", "600", options=("-d",)).returncode, range(50))
        assert [0] * 50 == list(done)
    pids = [pid for pid, _ in node.tasks().values()]
    os.kill(node.daemon(), signal.SIGKILL)
    assert eventually(lambda: not any(Path(f"/proc/{pid}/root").exists() for pid in pids)), node.complaints()
    if not eventually(lambda: not node.leftovers()):
        node.stop()
        node.start()
    assert eventually(lambda: not node.leftovers()), node.complaints()
    assert 0 == node.run("again", "true", options=("--rm",)).returncode


def test_the_daemon_is_killed_without_a_request(node: Containerd) -> None:
    """The next daemon, whatever starts it, ends the leftover tasks: containerd's timeout of `delete` is short."""
    assert 0 == node.run("t1", "sleep", "600", options=("-d",)).returncode
    (pid,) = (pid for pid, _ in node.tasks().values())
    node.stop()
    os.kill(node.daemon(), signal.SIGKILL)
    (bundle := node.folder / "another").mkdir()
    shim(node, bundle, "start")
    assert eventually(lambda: not Path(f"/proc/{pid}/root").exists())
    node.start()
    assert eventually(lambda: not node.leftovers()), node.complaints()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"start\0\0\0",
        question(("start", "a", "../b", "/", "")),
        question(("x", "a", "b", "/", "")),
        b"x" * (1 << 20),
    ],
)
def test_invalid_bytes_on_the_daemons_socket(node: Containerd, text: bytes) -> None:
    """Whatever a launcher says that is no question is answered with an error, and the next one is served."""
    assert 0 == node.run("t1", "true", options=("--rm",)).returncode
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(node.state / "control"))
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        assert FAILED == connection.recv(1 << 16)[:1]
    assert 0 == node.run("t2", "true", options=("--rm",)).returncode


def write_bundle(bundle: Path) -> None:
    """A bundle of runc's own default, which sleeps."""
    bundle.mkdir()
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/sleep", "600"]}
    (bundle / "config.json").write_text(json.dumps(config))


def shim(node: Containerd, bundle: Path, command: str) -> bytes:
    """What our shim's binary answers for a bundle that containerd knows nothing of."""
    program = f"{sysconfig.get_path('scripts')}/containerd-shim-crishim-v2"
    argv = [program, "-namespace", "own", "-id", bundle.name, command]
    environment = {**os.environ, "CRISHIM_SHIM_STATE": str(node.state), "TTRPC_ADDRESS": ""}
    return subprocess.run(argv, cwd=bundle, env=environment, input=b"", capture_output=True, check=True).stdout


async def test_another_daemon_ends_a_task_of_a_root_of_its_own(node: Containerd, tmp_path: Path) -> None:
    """`delete` after the daemon's death finds the container where its options had put it, and frees it."""
    root, bundle = tmp_path / "runc", tmp_path / "t1"
    write_bundle(bundle)
    client = await Client.connect(shim(node, bundle, "start").decode())
    request = pb.CreateTaskRequest(
        id="t1",
        bundle=str(bundle),
        rootfs=[types_pb.Mount(type="bind", source=str(node.root), options=["rbind"])],
        options=packed("containerd.runc.v1.Options", runc_pb.Options(root=str(root))),
    )
    await client.call("containerd.task.v2.Task", "Create", request.SerializeToString())
    assert ["t1"] == [path.name for path in root.glob("own/*")]
    os.kill(node.daemon(), signal.SIGKILL)
    await client.ended()
    await client.close()
    assert 137 == pb.DeleteResponse.FromString(shim(node, bundle, "delete")).exit_status
    assert [] == list(root.glob("own/*"))
    assert [] == list((bundle / "rootfs").iterdir())


def test_the_launcher_is_thin() -> None:
    """Beyond what a bare interpreter has, it loads itself, its packages and two modules in C."""
    code = "import os, sys; sys.path.append(sys.argv[1]); before = set(sys.modules); import crishim.shimv2.server.launcher; "
    code += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-IS", "-c", code, str(SRC)], capture_output=True, text=True, check=True)
    assert "_socket crishim crishim.shimv2 crishim.shimv2.server crishim.shimv2.server.launcher fcntl\n" == done.stdout


@needs(*TOOLS)
async def test_pods_of_containerd(tmp_path: Path) -> None:
    """Containerd's CRI runs a pod of two containers through our shim; a plain container asks its runtime for nothing."""
    options = NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    linux = LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=options))
    with images(tmp_path) as image, containerd(image) as node:
        async with node.cri() as client:
            sandbox = sandbox_config("pod", hostname="", linux=linux, log_directory=str(tmp_path))
            await client.pull_image(ImageSpec(image=image), sandbox)
            pod = await client.run_sandbox(sandbox)
            created = []
            for name in ("one", "two"):
                config = container_config(
                    "", metadata=ContainerMetadata(name), image=ImageSpec(image=image), command=(), log_path=f"{name}.log"
                )
                created.append(await client.create_container(pod, config, sandbox))
                await client.start_container(created[-1])
                bundle = node.folder / "run" / "io.containerd.runtime.v2.task" / "k8s.io" / created[-1]
                asked = config_features(json.loads((bundle / "config.json").read_text()))
                assert [] == [feature for feature, is_set in asked.items() if is_set]
            assert 3 == (await client.exec_sync(created[0], ("sh", "-c", "exit 3"), 10)).exit_code
            await client.stop_container(created[0], 0)
            assert 137 == (await client.container_status(created[0])).exit_code
            await client.stop_sandbox(pod)
            await client.remove_sandbox(pod)
            own = await client.run_sandbox(sandbox, "own")
            assert (node.state / "runc" / "own" / "k8s.io" / own / "state.json").exists()
            await client.stop_sandbox(own)
            await client.remove_sandbox(own)
        assert eventually(lambda: not node.leftovers())
