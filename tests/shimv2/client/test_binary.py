import os
from pathlib import Path

import pytest

from crishim._proto import shim_bootstrap_pb2 as bootstrap_pb
from crishim._proto import shim_task_pb2 as task_pb
from crishim.errors import DeadlineExceeded, FailedPrecondition, Unknown
from crishim.model.process import Exit
from crishim.shimv2.client.binary import ShimBinary, binary_name
from crishim.shimv2.server.options import start_options
from crishim.shimv2.wire.messages import Bootstrap, runtime_options


def shim(folder: Path, script: str, name: str = "shim", **changes: object) -> ShimBinary:
    """A shell script in place of a shim; it records its input in `args`, `env`, `cwd` and `given`."""
    program = folder / name
    records = f'echo "$@" > {folder}/args; env > {folder}/env; pwd > {folder}/cwd; cat > {folder}/given\n'
    program.write_text(f"#!/bin/sh\n{records}{script}\n")
    program.chmod(0o755)
    values: dict[str, object] = {"program": str(program), "namespace": "ns", "address": "/a", **changes}
    return ShimBinary(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("runtime", "program"),
    [
        ("io.containerd.runc.v2", "containerd-shim-runc-v2"),
        ("io.containerd.kata.v2", "containerd-shim-kata-v2"),
        ("io.containerd.runsc.v1", "containerd-shim-runsc-v1"),
        ("/opt/kata/bin/containerd-shim-kata-v2", "/opt/kata/bin/containerd-shim-kata-v2"),
        ("containerd-shim-runc-v2", "containerd-shim-runc-v2"),
    ],
)
def test_names_of_programs(runtime: str, program: str) -> None:
    """A runtime's name leads to its program by the last two of its parts; a program's name stays."""
    assert program == binary_name(runtime)


async def test_start_is_called_like_containerd_does(tmp_path: Path) -> None:
    """`start` runs in the bundle, with flags, environment and stdin as containerd has them."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    binary = shim(tmp_path, "echo unix:///s; echo a warning >&2", events="/e")
    assert Bootstrap("unix:///s", 2) == await binary.start("t1", bundle)
    assert "-namespace ns -address /a -publish-binary  -id t1 start\n" == (tmp_path / "args").read_text()
    assert f"{bundle}\n" == (tmp_path / "cwd").read_text()
    assert b"" == (tmp_path / "given").read_bytes()
    environment = (tmp_path / "env").read_text().splitlines()
    assert {"GOMAXPROCS=2", "TTRPC_ADDRESS=/e", "GRPC_ADDRESS=/a", "NAMESPACE=ns", "MAX_SHIM_VERSION=2"} <= set(environment)


async def test_bootstrap_parameters_for_who_reads_them(tmp_path: Path) -> None:
    """Runc's shim gets them from containerd 2.3 on, by what `-v` says; anybody gets them who is configured so."""
    for said, expected in (("v2.4.0", "t1"), ("1.6.20~ds1", ""), ("2.2.9", "")):
        says = f'[ "$7" = -v ] && echo "Version:  {said}" && exit; echo unix:///s'
        binary = shim(tmp_path, says, "containerd-shim-runc-v2")
        await binary.start("t1", tmp_path)
        params = bootstrap_pb.BootstrapParams.FromString((tmp_path / "given").read_bytes())
        assert expected == params.instance_id
    await shim(tmp_path, "echo unix:///s", bootstrap=True).start("t2", tmp_path)
    assert "t2" == bootstrap_pb.BootstrapParams.FromString((tmp_path / "given").read_bytes()).instance_id


@pytest.mark.parametrize("bootstrap", [False, True])
async def test_the_options_of_a_start(tmp_path: Path, bootstrap: bool) -> None:
    """They are on stdin as containerd sends them: alone, or an extension of the BootstrapParams."""
    options = runtime_options("/etc/options")
    await shim(tmp_path, "echo unix:///s", bootstrap=bootstrap).start("t1", tmp_path, options)
    given = (tmp_path / "given").read_bytes()
    if bootstrap:
        (extension,) = bootstrap_pb.BootstrapParams.FromString(given).extensions
        assert (options.type_url, options.value) == (extension.value.type_url, extension.value.value)
    else:
        assert (options.type_url, options.value) == start_options(given)


async def test_delete_answers_the_end(tmp_path: Path) -> None:
    """`delete` names its bundle, and its answer is the task's end."""
    answer = task_pb.DeleteResponse(pid=1, exit_status=137)
    answer.exited_at.seconds = 5
    (tmp_path / "answer").write_bytes(answer.SerializeToString())
    binary = shim(tmp_path, f"cat {tmp_path}/answer")
    assert Exit(code=137, at=5_000_000_000) == await binary.delete("t1", tmp_path)
    assert f"-bundle {tmp_path} delete\n" in (tmp_path / "args").read_text()


async def test_failures_have_the_output_of_the_shim(tmp_path: Path) -> None:
    """A shim that fails is Unknown with its complaint, one that is not there FailedPrecondition with its name."""
    with pytest.raises(Unknown, match="not like this"):
        await shim(tmp_path, "echo not like this >&2; exit 1").start("t1", tmp_path)
    with pytest.raises(Unknown, match="delete answered"):
        await shim(tmp_path, "printf '\\377\\377'").delete("t1", tmp_path)
    with pytest.raises(FailedPrecondition, match="no-such-shim"):
        await ShimBinary(program="no-such-shim", namespace="n", address="").start("t1", tmp_path)


async def test_a_start_that_hangs_is_killed(tmp_path: Path) -> None:
    """A shim that does not come to its end is killed when its time is up."""
    binary = shim(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600", timeout=1.0)
    with pytest.raises(DeadlineExceeded):
        await binary.start("t1", tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_who_keeps_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    """A daemon that is left behind with our stdout does not hold the start up."""
    binary = shim(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid; echo unix:///s", timeout=30.0)
    assert "unix:///s" == (await binary.start("t1", tmp_path)).address
    os.kill(int((tmp_path / "pid").read_text()), 9)
