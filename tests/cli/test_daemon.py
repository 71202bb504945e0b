import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crishim.cli.daemon import (
    JournalFormat,
    JsonFormat,
    RpcFilter,
    TextFormat,
    announced,
    ended_by_signals,
    notify,
    start_logging,
    take_over_environment,
    watchdog_period,
)
from crishim.cri import Dispatcher, pb
from crishim.interfaces.tracing import ServedRpc, serving
from crishim.testing import Harness


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end of the readiness protocol."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(30)
        yield receiver


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    entry = logging.LogRecord("crishim.rpc", level, __file__, 1, message, (), None)
    entry.created = 1_767_225_600.25
    return entry


async def test_readiness_and_signs_of_life(manager: socket.socket) -> None:
    """The manager is notified of readiness, at once that we are alive, and of the stop."""
    environ = {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "20000000"}
    async with announced(environ):
        messages = {await asyncio.to_thread(manager.recv, 100) for _ in range(2)}
    assert {b"READY=1", b"WATCHDOG=1"} == messages
    assert b"STOPPING=1" == manager.recv(100)


def test_the_managers_variables_are_removed() -> None:
    """The manager's variables are removed from the environment, so that no child uses them."""
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1", "PATH": "/bin"}
    variables = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}
    assert (variables, {"PATH": "/bin"}) == (take_over_environment(environ), environ)


def test_nothing_is_sent_without_a_manager(manager: socket.socket) -> None:
    """Without the variable, or with an address without a listener, nothing is sent and nothing fails."""
    notify("READY=1", {})
    notify("READY=1", {"NOTIFY_SOCKET": "relative"})
    notify("READY=1", {"NOTIFY_SOCKET": str(manager.getsockname()) + ".none"})
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_an_abstract_socket_is_notified() -> None:
    """An address that begins with @ is an abstract socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")
        name = receiver.getsockname()
        notify("READY=1", {"NOTIFY_SOCKET": "@" + name[1:].decode()})
        assert b"READY=1" == receiver.recv(100)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_asks(environ: dict[str, str], expected: float | None) -> None:
    """The period is half of WATCHDOG_USEC, and none if it is for another process or for none."""
    assert expected == watchdog_period(environ)


def test_lines_have_their_form() -> None:
    """A line of text has time, level and logger; journald's has a priority for every line; JSON is an object."""
    assert "2026-01-01T00:00:00.250Z INFO crishim.rpc: hello" == TextFormat().format(record("hello"))
    assert "<4>crishim.rpc: one\n<4>two" == JournalFormat().format(record("one\ntwo", logging.WARNING))
    expected = {"time": "2026-01-01T00:00:00.250Z", "level": "INFO", "logger": "crishim.rpc", "message": "hello"}
    assert expected == json.loads(JsonFormat().format(record("hello")))
    failed = record("broken", logging.ERROR)
    try:
        raise ValueError("why")
    except ValueError:
        failed.exc_info = sys.exc_info()
    assert json.loads(JsonFormat().format(failed))["error"].endswith("ValueError: why")


@pytest.mark.parametrize(
    ("rpc", "text", "fields"),
    [
        (None, "", {}),
        (ServedRpc(number=17), "[rpc=17] ", {"rpc": 17}),
        (ServedRpc(number=17, pod="shop/web"), "[rpc=17 pod=shop/web] ", {"rpc": 17, "pod": "shop/web"}),
        (ServedRpc(number=17, pod="a\nb"), "[rpc=17 pod=a\\nb] ", {"rpc": 17, "pod": "a\nb"}),
    ],
)
def test_lines_name_the_rpc(rpc: ServedRpc | None, text: str, fields: dict[str, object]) -> None:
    """Every line that is logged while an RPC is served has its number and its pod, in each form; others have neither."""
    entry = record("hello")
    with serving(rpc) if rpc is not None else contextlib.nullcontext():
        assert RpcFilter().filter(entry)
    assert f"2026-01-01T00:00:00.250Z INFO crishim.rpc: {text}hello" == TextFormat().format(entry)
    assert f"<6>crishim.rpc: {text}hello" == JournalFormat().format(entry)
    known = {"time": "2026-01-01T00:00:00.250Z", "level": "INFO", "logger": "crishim.rpc", "message": "hello"}
    assert known | fields == json.loads(JsonFormat().format(entry))


async def test_a_backend_s_lines_name_the_pod(capsys: pytest.CaptureFixture[str]) -> None:
    """What a backend logs while it starts a sandbox, and the line of the call itself, name the same RPC and the pod."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    metadata = pb.PodSandboxMetadata(name="web", namespace="shop", uid="u")
    try:
        start_logging("info", "json", {})
        async with Harness() as world:
            real = world.fake.start_sandbox

            async def logging_start(spec: Any) -> Any:
                logging.getLogger("backend").warning("slow disk")
                return await real(spec)

            world.fake.start_sandbox = logging_start  # type: ignore[method-assign]
            dispatch = Dispatcher(world.services)
            await dispatch(pb.VersionRequest())
            await dispatch(pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(metadata=metadata)))
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    expected = [("backend", 2, "shop/web"), ("crishim.rpc", 2, "shop/web")]
    assert expected == [(line["logger"], line["rpc"], line["pod"]) for line in lines]


@pytest.mark.parametrize(
    ("form", "journal", "expected"), [("auto", "", TextFormat), ("auto", "yes", JournalFormat), ("json", "", JsonFormat)]
)
def test_the_form_of_lines_is_chosen(form: str, journal: str, expected: type) -> None:
    """The form auto is journald's form where stderr is the journal's own stream, and text elsewhere."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    status = os.fstat(2)
    try:
        start_logging("warning", form, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} if journal else {})
        assert (expected, logging.WARNING) == (type(root.handlers[0].formatter), root.level)
    finally:
        root.handlers[:] = before
        root.setLevel(level)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_end_it(number: signal.Signals) -> None:
    """SIGTERM and SIGINT set the event, and end nothing themselves."""
    with ended_by_signals() as ended:
        os.kill(os.getpid(), number)
        await ended.wait()
    assert ended.is_set()
