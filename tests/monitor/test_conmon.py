"""conmon's command line and messages."""

import json
from pathlib import Path

import pytest

from crishim.errors import Unknown
from crishim.interfaces.oci_runtime import Stdio
from crishim.model.process import TerminalSize
from crishim.monitor.conmon import MonitorRequest, create_argv, parse_sync, resize_line, runtime_message, socket_name

NONE = Stdio()


def request(stdio: Stdio = NONE, *, systemd: bool = False) -> MonitorRequest:
    """A container to create."""
    return MonitorRequest(
        container_id="a" * 64,
        bundle=Path("/b"),
        runtime="/bin/runc",
        runtime_args=("--root=/r", "--debug"),
        systemd_cgroup=systemd,
        sockets=Path("/s"),
        stdio=stdio,
    )


def test_the_whole_command_line() -> None:
    """A container without streams has every file in its bundle, and no log."""
    assert [
        "--api-version=1",
        f"--cid={'a' * 64}",
        f"--cuuid={'a' * 32}",
        f"--name={'a' * 64}",
        "--bundle=/b",
        "--container-pidfile=/b/pidfile",
        "--conmon-pidfile=/b/conmon-pidfile",
        "--persist-dir=/b",
        "--exit-dir=/b/exits",
        "--socket-dir-path=/s",
        "--runtime=/bin/runc",
        "--runtime-arg=--root=/r",
        "--runtime-arg=--debug",
        "--log-level=error",
        "--log-path=none:",
    ] == create_argv(request())


@pytest.mark.parametrize(
    ("stdio", "added"),
    [
        (Stdio(log_path="/l"), ["--no-sync-log", "--log-path=k8s-file:/l"]),
        (Stdio(terminal=True), ["--log-path=none:", "--terminal"]),
        (Stdio(keep_stdin=True), ["--log-path=none:", "--stdin", "--leave-stdin-open"]),
        (Stdio(keep_stdin=True, stdin_once=True), ["--log-path=none:", "--stdin"]),
    ],
)
def test_streams(stdio: Stdio, added: list[str]) -> None:
    """The log is in CRI's format, and stdin stays open behind its first client unless it is for one client only."""
    argv = create_argv(request(stdio))
    assert added == argv[argv.index("--log-level=error") + 1 :]


def test_systemd() -> None:
    """Conmon hands the cgroup driver on."""
    assert "--systemd-cgroup" in create_argv(request(systemd=True))


@pytest.mark.parametrize("line", [b'{"data": 42}\n', b'{"pid": 42}\n'])
def test_a_pid(line: bytes) -> None:
    """Both versions of the message have the pid."""
    assert 42 == parse_sync(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"data": -1, "message": "no such file\\n"}\n', "no such file"),
        (b'{"pid": -1}\n', "without a message"),
        (b"garbage\n", "garbage"),
        (b"[]\n", r"\[\]"),
    ],
)
def test_a_failure(line: bytes, words: str) -> None:
    """A failure has the runtime's message."""
    with pytest.raises(Unknown, match=words):
        parse_sync(line)


def test_commands() -> None:
    """A size is written as rows and columns, and a socket's folder has half an id, since its path must be short."""
    assert b"1 24 80\n" == resize_line(TerminalSize(width=80, height=24))
    assert "b" * 32 == socket_name("a" * 32 + "b" * 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'time="2026-11-26T22:00:01Z" level=error msg="create failed: \\"nope\\": executable file not found in $PATH"\n',
            'create failed: "nope": executable file not found in $PATH',
        ),
        ('time="T" level=warning msg="careful"\ntime="T" level=error msg="first"\ntime="T" level=error msg=last\n', "last"),
        ("crun: executable file `nope` not found\n", "crun: executable file `nope` not found"),
        ("", ""),
    ],
)
def test_a_runtimes_complaint_has_no_time(text: str, message: str) -> None:
    """Of log lines the last error's message is returned, which is the same at every retry; other text is returned unchanged."""
    assert message == runtime_message(text)


def test_a_failed_creation_has_the_message_alone() -> None:
    """What conmon passes on of the runtime's log is the message."""
    line = json.dumps({"data": -1, "message": 'time="T" level=error msg="no such thing"'}).encode()
    with pytest.raises(Unknown, match=r"^no such thing$"):
        parse_sync(line)
