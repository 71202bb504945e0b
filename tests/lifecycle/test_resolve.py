"""ContainerConfig, ImageConfig and sandbox together."""

from typing import Any

import pytest

from crishim.errors import InvalidArgument
from crishim.lifecycle.resolve import DEFAULT_PATH, argv, environment, log_path, stop_signal, user
from crishim.model.container import ContainerConfig, ContainerMetadata, KeyValue, UserSpec
from crishim.model.image import ImageConfig
from crishim.model.process import Signal
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.security import LinuxContainerSecurityContext
from crishim.model.values import SandboxId

IMAGE = ImageConfig(entrypoint=("/entry",), cmd=("cmd",), env=("PATH=/image", "A=1"), user="1000:2000", stop_signal="INT")


def config(**changes: Any) -> ContainerConfig:
    return ContainerConfig(metadata=ContainerMetadata("c"), **changes)


def sandbox(**changes: Any) -> SandboxSpec:
    metadata = PodSandboxMetadata(name="p", namespace="n", uid="u")
    return SandboxSpec(id=SandboxId("s"), config=PodSandboxConfig(metadata=metadata, **changes))


@pytest.mark.parametrize(
    ("command", "args", "image", "expected"),
    [
        ((), (), IMAGE, ("/entry", "cmd")),
        ((), ("a",), IMAGE, ("/entry", "a")),
        (("/c",), (), IMAGE, ("/c",)),
        (("/c",), ("a",), IMAGE, ("/c", "a")),
        ((), (), ImageConfig(entrypoint=("",), cmd=("cmd",)), ("cmd",)),
        ((), ("a",), ImageConfig(), ("a",)),
    ],
)
def test_command(command: tuple[str, ...], args: tuple[str, ...], image: ImageConfig, expected: tuple[str, ...]) -> None:
    """A command replaces entrypoint and cmd; args replace cmd alone (mapping.md 2)."""
    assert expected == argv(config(command=command, args=args), image)


def test_nothing_to_run() -> None:
    """Without a command at either end there is nothing to run."""
    with pytest.raises(InvalidArgument, match="command"):
        argv(config(), ImageConfig())


def test_environment_is_laid_over() -> None:
    """PATH, TERM, HOSTNAME, the image's, the container's: later ones win, in place (mapping.md 2)."""
    request = config(tty=True, envs=(KeyValue("A", "2"), KeyValue("B", "x=y\nz")))
    result = environment(request, IMAGE, sandbox(hostname="host"))
    assert [("PATH", "/image"), ("TERM", "xterm"), ("HOSTNAME", "host"), ("A", "2"), ("B", "x=y\nz")] == list(result.items())
    assert DEFAULT_PATH == environment(config(), ImageConfig(), sandbox())["PATH"]


@pytest.mark.parametrize("key", ["", "A=B", "A\0"])
def test_impossible_variables_are_refused(key: str) -> None:
    """A variable needs a name without '=' and NUL."""
    with pytest.raises(InvalidArgument, match="envs"):
        environment(config(envs=(KeyValue(key),)), IMAGE, sandbox())


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        (None, UserSpec(user="1000", group="2000")),
        (LinuxContainerSecurityContext(), UserSpec(user="1000", group="2000")),
        (LinuxContainerSecurityContext(run_as_user=0), UserSpec(user="0")),
        (LinuxContainerSecurityContext(run_as_user=5, run_as_group=6), UserSpec(user="5", group="6")),
        (LinuxContainerSecurityContext(run_as_user=5, run_as_username="www"), UserSpec(user="www")),
    ],
)
def test_user(security: LinuxContainerSecurityContext | None, expected: UserSpec) -> None:
    """The name beats the number, both beat the image's user, whose group counts only with it (mapping.md 3)."""
    assert expected == user(security, IMAGE)


@pytest.mark.parametrize(
    "security",
    [
        LinuxContainerSecurityContext(run_as_group=5),
        LinuxContainerSecurityContext(run_as_user=-1),
        LinuxContainerSecurityContext(run_as_user=2**31),
    ],
)
def test_impossible_users_are_refused(security: LinuxContainerSecurityContext) -> None:
    """A group without a user, and numbers out of range, make no sense (mapping.md 3)."""
    with pytest.raises(InvalidArgument):
        user(security, IMAGE)


def test_stop_signal_of_an_image() -> None:
    """An image's signal may be a name with or without SIG, or a number; one that CRI cannot name is SIGTERM."""
    signals = [stop_signal(config(), ImageConfig(stop_signal=text)) for text in ("INT", "SIGQUIT", "10", "RTMAX-2", "bogus")]
    assert [Signal.SIGINT, Signal.SIGQUIT, Signal.SIGUSR1, Signal.SIGRTMAXMINUS2, Signal.SIGTERM] == signals


def test_log_path() -> None:
    """The log lies below the sandbox's directory; without either part there is none (rpc.md 5, CreateContainer)."""
    where = sandbox(log_directory="/logs")
    assert "/logs/c/0.log" == log_path(config(log_path="c/./0.log"), where)
    assert "" == log_path(config(), where) == log_path(config(log_path="x"), sandbox())
