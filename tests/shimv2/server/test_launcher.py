"""The launcher and a daemon that is not as it should be. What it does with a real one is in `test_door`."""

import json
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from crishim import __version__
from crishim._proto import shim_runc_pb2 as runc_pb
from crishim._proto import shim_task_pb2 as task_pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.shimv2.server.launcher import CONTROL, DONE, NAME, ask, group, nothing_left
from crishim.shimv2.wire.messages import packed

NOBODY = ["/bin/false"]


def hang_up(connection: socket.socket) -> None:
    """Without having read: the other side's question is refused, at the latest when it waits for the answer."""
    connection.close()


def say_nothing(connection: socket.socket) -> None:
    """Having read all."""
    while connection.recv(65536):
        pass
    connection.close()


def answer(connection: socket.socket) -> None:
    connection.sendall(DONE + b"told")
    say_nothing(connection)


@pytest.mark.parametrize("failing", [hang_up, say_nothing])
def test_a_daemon_that_dies_over_a_question(tmp_path: Path, failing: Callable[[socket.socket], None]) -> None:
    """The request is sent again to its successor, as `start` and `delete` may be repeated."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / CONTROL))
        listening.listen()

        def serve() -> None:
            for each in (failing, failing, answer):
                each(listening.accept()[0])

        daemon = threading.Thread(target=serve)
        daemon.start()
        assert DONE + b"told" == ask(str(tmp_path), b"question", NOBODY)
        daemon.join()


def test_a_daemon_that_does_not_start(tmp_path: Path) -> None:
    """The error names the file that says why."""
    with pytest.raises(OSError, match=f"see {tmp_path}/log"):
        ask(str(tmp_path), b"question", NOBODY)


def information_of(program: str) -> types_pb.RuntimeInfo:
    """What `-info` prints for a program in the options."""
    options = packed("containerd.runc.v1.Options", runc_pb.Options(binary_name=program))
    script = Path(sysconfig.get_path("scripts")) / "containerd-shim-crishim-v2"
    done = subprocess.run([script, "-info"], input=options.SerializeToString(), capture_output=True, check=True)
    return types_pb.RuntimeInfo.FromString(done.stdout)


def test_the_features_of_the_runtime(tmp_path: Path) -> None:
    """`-info` has the features of the program that the options name, which may refuse / as its root (runc 1.5)."""
    program = tmp_path / "runc"
    program.write_text('#!/bin/sh\n[ "$1" != --root=/ ] && echo \'{"mountOptions": ["rro"]}\'\n')
    program.chmod(0o755)
    info = information_of(str(program))
    assert (NAME, __version__) == (info.name, info.version.version)
    assert {"mountOptions": ["rro"]} == json.loads(info.features.value)


def test_a_runtime_without_features() -> None:
    """A program that is missing, or has no such subcommand, has none, and is an error only when it is used."""
    assert not information_of("no-such-program").HasField("features")
    assert not information_of("false").HasField("features")


POD = b'"annotations":{"a":"x","io.kubernetes.cri.sandbox-id":"%s","b":"y"}'


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "t1"),
        (b"{}", "t1"),
        (POD % b"3e34-a_b.c", "3e34-a_b.c"),
        (POD % b"..", "t1"),
        (POD % b"a/b", "t1"),
        (POD % b"", "t1"),
        (b'{"env":["io.kubernetes.cri.sandbox-id","x"]}', "t1"),
        (rb'{"env":["\"io.kubernetes.cri.sandbox-id\":\"x\""]}', "t1"),
        (b'"io.kubernetes.cri.sandbox-id"', "t1"),
    ],
)
def test_the_sandbox_of_a_task(tmp_path: Path, config: bytes | None, expected: str) -> None:
    """It is the annotation's value in config.json; the task itself if there is none, or one that is no id."""
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    assert expected == group(str(tmp_path), "t1")


@pytest.mark.parametrize("now", [0, 127, 128, 1_795_000_000])
def test_the_answer_for_a_task_that_was_freed(now: int) -> None:
    """It is a DeleteResponse with 137 and the time."""
    answer = task_pb.DeleteResponse.FromString(nothing_left(now))
    assert (137, now) == (answer.exit_status, answer.exited_at.seconds)
