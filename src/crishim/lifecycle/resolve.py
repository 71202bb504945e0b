"""Resolves ContainerConfig, ImageConfig and sandbox to a ContainerSpec: program, environment, user, stop signal.

The rules are those of containerd and CRI-O; CRI itself does not state them:

- command and args: a non-empty `command` replaces the image's entrypoint and cmd; otherwise the image's entrypoint runs, with
  `args`, or with the image's cmd if there are no args. An entrypoint of one empty string counts as none. If both are empty the
  request is an error.
- environment: PATH if the image sets none, TERM with a terminal, HOSTNAME, then the image's variables, then the container's; a
  repeated name replaces the value in place.
- working directory: the container's, else the image's, else `/`.
- user: `run_as_username`, else `run_as_user`, else the image's user; a group without a user is an error. The group in the
  image's user counts only if the request names no user.
- stop signal: the container's, else the image's, else SIGTERM.
"""

import posixpath
from typing import Final

from crishim.errors import InvalidArgument
from crishim.model.container import ContainerConfig, ContainerSpec, UserSpec
from crishim.model.image import ImageConfig
from crishim.model.process import Signal, signal_number
from crishim.model.resources import Resources
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import LinuxContainerSecurityContext
from crishim.model.values import ContainerId, FrozenDict, ImageId

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_ID: Final = 2**31 - 1


def resolve(
    config: ContainerConfig,
    image: ImageConfig,
    sandbox: SandboxSpec,
    *,
    container_id: ContainerId,
    image_id: ImageId,
) -> ContainerSpec:
    """The spec that a backend receives for a container. Raises `InvalidArgument` naming the invalid field."""
    linux = config.linux
    security = linux.security_context if linux else None
    return ContainerSpec(
        id=container_id,
        sandbox=sandbox,
        metadata=config.metadata,
        image_id=image_id,
        image=config.image,
        image_config=image,
        argv=argv(config, image),
        env=environment(config, image, sandbox),
        cwd=config.working_dir or image.working_dir or "/",
        user=user(security, image),
        stop_signal=stop_signal(config, image),
        log_path=log_path(config, sandbox),
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        mounts=config.mounts,
        devices=config.devices,
        cdi_devices=config.cdi_devices,
        labels=config.labels,
        annotations=config.annotations,
        resources=linux.resources if linux else Resources(),
        security=security,
    )


def argv(config: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """The program and its arguments. Raises `InvalidArgument` if there are none."""
    command, args = config.command, config.args
    if not command:
        args = args or image.cmd
        command = image.entrypoint if image.entrypoint != ("",) else ()
    if not (command or args):
        raise InvalidArgument("config.command", "is empty, and the image has neither entrypoint nor cmd")
    return (*command, *args)


def environment(config: ContainerConfig, image: ImageConfig, sandbox: SandboxSpec) -> FrozenDict[str, str]:
    """The environment variables, in order. HOSTNAME is left out on the host network: the backend knows the node's name."""
    env = {"PATH": DEFAULT_PATH}
    if config.tty:
        env["TERM"] = "xterm"
    if sandbox.config.hostname:
        env["HOSTNAME"] = sandbox.config.hostname
    for variable in image.env:
        key, _, value = variable.partition("=")
        env[key] = value
    for number, variable_ in enumerate(config.envs):
        if not variable_.key or "=" in variable_.key or "\0" in variable_.key + variable_.value:
            raise InvalidArgument(f"config.envs[{number}]", "must have a name without '=', and no NUL")
        env[variable_.key] = variable_.value
    return FrozenDict(env)


def user(security: LinuxContainerSecurityContext | None, image: ImageConfig) -> UserSpec:
    """The user, group and supplemental groups to run with. Raises `InvalidArgument`."""
    if security is None:
        name, _, group = image.user.partition(":")
        return UserSpec(user=name, group=group)
    path = "config.linux.security_context"
    for field, number in (("run_as_user", security.run_as_user), ("run_as_group", security.run_as_group)):
        if number is not None and not 0 <= number <= MAX_ID:
            raise InvalidArgument(f"{path}.{field}", f"must lie between 0 and {MAX_ID}")
    if security.run_as_username:
        name, group = security.run_as_username, ""
    elif security.run_as_user is not None:
        name, group = str(security.run_as_user), ""
    elif security.run_as_group is not None:
        raise InvalidArgument(f"{path}.run_as_group", "is set without a user")
    else:
        name, _, group = image.user.partition(":")
    if security.run_as_group is not None:
        group = str(security.run_as_group)
    return UserSpec(
        user=name,
        group=group,
        supplemental_groups=security.supplemental_groups,
        supplemental_groups_policy=security.supplemental_groups_policy,
    )


def stop_signal(config: ContainerConfig, image: ImageConfig) -> Signal:
    """The signal that begins a stop; never RUNTIME_DEFAULT. A signal of the image without a name in CRI becomes SIGTERM."""
    if config.stop_signal:
        return config.stop_signal
    number = signal_number(image.stop_signal) if image.stop_signal else None
    return (Signal.from_number(number) if number else None) or Signal.SIGTERM


def log_path(config: ContainerConfig, sandbox: SandboxSpec) -> str:
    """The absolute path of the log; empty if the request or the sandbox names none. It must be below the sandbox's log
    directory.
    """
    directory = sandbox.config.log_directory
    if not (directory and config.log_path):
        return ""
    relative = posixpath.normpath(config.log_path)
    if config.log_path.startswith("/") or "\0" in config.log_path or relative in {".", ".."} or relative.startswith("../"):
        raise InvalidArgument("config.log_path", "must be relative, and stay below the sandbox's log directory")
    return posixpath.join(directory, relative)
