"""`crishim.toml`: from bytes to a frozen `Config` (pure; `app` reads the files).

Every key is a field here, with its default and its meaning; `default_text` renders all of them as a commented file. Several
sources are merged in order: a later one replaces single values, single handlers, and single options of backends. An unknown
key, or a value of a wrong type, raises `InvalidArgument` with the source and the key.
"""

import difflib
import json
import posixpath
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from crishim.errors import InvalidArgument
from crishim.model.values import FrozenDict

__all__ = [
    "Config",
    "Deadlines",
    "ImagesConfig",
    "LogConfig",
    "NetworkConfig",
    "NriConfig",
    "ShimConfig",
    "StreamingConfig",
    "TracingConfig",
    "default_text",
    "parse",
]

Check = Callable[[Any, Any], Any]
"""Receives a value from a file and the previous value; returns the new one, or raises `ValueError` with the requirement."""

_WIDTH = 110
_ENDPOINT = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}/?")
_NO_OPTIONS: FrozenDict[str, Any] = FrozenDict()


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004 - one class for all invalid values
    return value


def _path(value: Any, _: Any) -> str:
    if not isinstance(value, str) or not posixpath.isabs(value):
        raise ValueError("must be an absolute path")
    return posixpath.normpath(value)


def _texts(value: Any, _: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of strings")
    return tuple(value)


def _number(least: int, most: int) -> Check:
    def check(value: Any, _: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return check


def _seconds(value: Any, _: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ValueError("must be a number of seconds above 0")
    return float(value)


def _share(value: Any, _: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return float(value)


def _endpoint(value: Any, _: Any) -> str:
    if not isinstance(value, str) or (value and not _ENDPOINT.fullmatch(value)):
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    return value


def _flag(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - as above
    return value


def _choice(*words: str) -> Check:
    def check(value: Any, _: Any) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(json.dumps(word) for word in words)}")
        return str(value)

    return check


def _handlers(value: Any, so_far: FrozenDict[str, str]) -> FrozenDict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(name, str) and name for name in value.values()):
        raise ValueError("must be a table of backend names")
    return FrozenDict({**so_far, **value})


def _backends(value: Any, so_far: FrozenDict[str, FrozenDict[str, Any]]) -> FrozenDict[str, FrozenDict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(options, dict) for options in value.values()):
        raise ValueError("must be tables of options, one for each backend")
    changed = {name: FrozenDict({**so_far.get(name, _NO_OPTIONS), **options}) for name, options in value.items()}
    return FrozenDict({**so_far, **changed})


def key(default: Any, meaning: str, check: Check) -> Any:
    """A key of the file: its default, its meaning, and its check."""
    return attrs.field(default=default, metadata={"meaning": meaning, "check": check})


@attrs.frozen(kw_only=True)
class StreamingConfig:
    """Exec, attach and port-forward: where clients (the kubelet) fetch their streams."""

    host: str = key("127.0.0.1", "The address to listen on. A client with a token needs no further credentials.", _text)
    port: int = key(0, "The port to listen on; 0 is any free one.", _number(0, 65535))
    base_url: str = key("", "The base of the URLs that clients get; empty for the address itself.", _text)
    certificate: str = key("", "A PEM file with a certificate and its chain, for https; empty for http.", _text)
    private_key: str = key("", "The PEM file with the certificate's key, if it is not in the same file.", _text)


@attrs.frozen(kw_only=True)
class LogConfig:
    """Logging to stderr: a line for each RPC with method, id, code and duration, and errors."""

    level: str = key(
        "info", "debug, info (every RPC), warning (RPCs that failed) or error.", _choice("debug", "info", "warning", "error")
    )
    format: str = key(
        "auto",
        "text, json, journald (priorities in front, no time), or auto: journald if stderr is the journal, else text.",
        _choice("auto", "text", "json", "journald"),
    )


@attrs.frozen(kw_only=True)
class Deadlines:
    """Deadlines of one call of a backend's verb, in seconds. The kubelet gives most calls 120 s."""

    probe: float = key(10.0, "Probing a backend.", _seconds)
    inventory: float = key(60.0, "The inventory of a backend, at start.", _seconds)
    start_sandbox: float = key(110.0, "Starting a sandbox.", _seconds)
    stop_sandbox: float = key(50.0, "Stopping a sandbox.", _seconds)
    remove_sandbox: float = key(50.0, "Removing a sandbox.", _seconds)
    create_container: float = key(110.0, "Creating a container.", _seconds)
    start_container: float = key(50.0, "Starting a container.", _seconds)
    kill_container: float = key(20.0, "Sending a signal.", _seconds)
    remove_container: float = key(50.0, "Removing a container.", _seconds)
    exit_after_kill: float = key(30.0, "From SIGKILL until the container has exited.", _seconds)
    network: float = key(50.0, "A step of the pod network.", _seconds)
    other: float = key(50.0, "Every other verb.", _seconds)
    closing: float = key(10.0, "Ending the calls under way when crishim stops.", _seconds)
    cancel_grace: float = key(2.0, "How long a cancelled verb may take to end before it is abandoned.", _seconds)


@attrs.frozen(kw_only=True)
class ImagesConfig:
    """The image store of backends that need one: pulls by skopeo, layers, root file systems."""

    registries_conf: str = key("", "A containers-registries.conf(5) with mirrors; empty for skopeo's default.", _text)
    policy: str = key("", "A containers-policy.json(5) with the required signatures; empty for skopeo's default.", _text)
    authfile: str = key("", "Credentials for pulls without any, as containers-auth.json(5).", _text)
    pinned: tuple[str, ...] = key((), "Patterns of image names that the kubelet must not garbage-collect.", _texts)
    stall: float = key(60.0, "A pull that transfers no byte for this many seconds is ended.", _seconds)


@attrs.frozen(kw_only=True)
class NetworkConfig:
    """The network of pods, by CNI plug-ins, for backends that let crishim set it up."""

    config: str = key("/etc/cni/net.d", "The folder of CNI configurations; the first valid one is used.", _path)
    plugins: tuple[str, ...] = key(("/opt/cni/bin", "/usr/lib/cni"), "Folders of CNI plug-ins.", _texts)


@attrs.frozen(kw_only=True)
class NriConfig:
    """NRI: plugins of the node that see, and may change, what happens to pods and containers. Only a server of root has any."""

    enabled: bool = key(True, "Whether there are plugins at all.", _flag)
    socket: str = key("/var/run/nri/nri.sock", "The socket to which plugins connect, with mode 0600.", _path)
    plugins: str = key("/opt/nri/plugins", "The folder of plugins to start, named by two digits and a name: 10-NAME.", _path)
    configurations: str = key("/etc/nri/conf.d", "The folder of their configurations, 10-NAME.conf or NAME.conf.", _path)
    registration_timeout: float = key(5.0, "Seconds within which a plugin must register.", _seconds)
    request_timeout: float = key(2.0, "Seconds within which a plugin must respond, or is dropped.", _seconds)


@attrs.frozen(kw_only=True)
class ShimConfig:
    """containerd's tasks by `containerd-shim-crishim-v2`: this server may be its daemon, instead of a process of its own."""

    serve: bool = key(
        False, "Whether this server runs containerd's tasks. They end with it: containerd takes it for dead.", _flag
    )
    folder: str = key(
        "/run/crishim/shim", "The folder of the daemon's sockets, as CRISHIM_SHIM_STATE in containerd's environment.", _path
    )


@attrs.frozen(kw_only=True)
class TracingConfig:
    """Traces of RPCs, sent by OpenTelemetry's protocol over gRPC. They need the extra `tracing`."""

    endpoint: str = key(
        "", "The collector, http://HOST:PORT or https://HOST:PORT (the latter with TLS); empty for no traces.", _endpoint
    )
    sampling: float = key(
        0.01, "The share of RPCs to trace, 0 to 1. If the client has decided about a trace, its decision is used.", _share
    )


@attrs.frozen(kw_only=True)
class Config:
    """The whole file."""

    listen: str = key("/run/crishim/crishim.sock", "The unix socket for CRI, with mode 0600.", _path)
    state: str = key(
        "/var/lib/crishim", "The folder for data that must survive a reboot: records, and the backends' own.", _path
    )
    runtime_state: str = key("/run/crishim", "The folder for data that a reboot may clear.", _path)
    cgroup_driver: str = key(
        "",
        "The cgroup driver: cgroupfs or systemd, for every runtime and for the kubelet (RuntimeConfig). Empty is"
        " systemd if systemd is process 1 and there is cgroup v2, and cgroupfs elsewhere.",
        _choice("", "cgroupfs", "systemd"),
    )
    remove_unrecorded_after: float = key(
        3600.0,
        "Seconds after which pods in a backend without a record are removed; they are logged before.",
        _seconds,
    )
    metrics_address: str = key(
        "", "HOST:PORT (:PORT is the loopback's) of metrics for Prometheus at /metrics; empty for none. Port 0 is any.", _text
    )
    handlers: FrozenDict[str, str] = key(
        FrozenDict({"": "process"}),
        "The backend of each runtime handler (a RuntimeClass's `handler`); the empty name is the default.",
        _handlers,
    )
    backends: FrozenDict[str, FrozenDict[str, Any]] = key(
        FrozenDict(),
        "Options of backends, a table for each: `[backends.NAME]`. The backend defines them. `plugin` is the"
        " installed plug-in, or `package.module:attribute`, if that is not NAME itself.",
        _backends,
    )
    streaming: StreamingConfig = key(StreamingConfig(), "", _text)
    images: ImagesConfig = key(ImagesConfig(), "", _text)
    network: NetworkConfig = key(NetworkConfig(), "", _text)
    nri: NriConfig = key(NriConfig(), "", _text)
    shim: ShimConfig = key(ShimConfig(), "", _text)
    log: LogConfig = key(LogConfig(), "", _text)
    tracing: TracingConfig = key(TracingConfig(), "", _text)
    deadlines: Deadlines = key(Deadlines(), "", _text)

    @property
    def backend_names(self) -> tuple[str, ...]:
        """The backends that handlers name, each once."""
        return tuple(dict.fromkeys(self.handlers.values()))

    def plugin_of(self, backend: str) -> str:
        """The plug-in behind a backend's name."""
        return str(self._of(backend).get("plugin", backend))

    def options_of(self, backend: str) -> FrozenDict[str, Any]:
        """A backend's own options."""
        return FrozenDict({name: value for name, value in self._of(backend).items() if name != "plugin"})

    def _of(self, backend: str) -> FrozenDict[str, Any]:
        return self.backends.get(backend, _NO_OPTIONS)


def parse(sources: Iterable[tuple[str, bytes]]) -> Config:
    """The merged configuration of files, each given by its name and content."""
    config: Config = Config()
    for name, data in sources:
        try:
            table = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(name, f"is not TOML: {error}") from error
        config = _laid_over(config, table, name, "")
    return _consistent(config)


def default_text() -> str:
    """A commented `crishim.toml` with every key and its default."""
    lines = ["# crishim.toml: every key, with its default. Drop-ins are conf.d/*.toml beside this file.", ""]
    sections: list[str] = []
    for field in attrs.fields(Config):
        default: Any = field.default
        if attrs.has(type(default)):
            sections += ["", *_comment(type(default).__doc__ or ""), f"[{field.name}]"]
            for inner in attrs.fields(type(default)):
                sections += [*_comment(inner.metadata["meaning"]), f"{inner.name} = {json.dumps(inner.default)}"]
        elif field.name == "handlers":
            sections += ["", *_comment(field.metadata["meaning"]), "[handlers]"]
            sections += [f"{json.dumps(name)} = {json.dumps(backend)}" for name, backend in default.items()]
        elif field.name == "backends":
            sections += ["", *_comment(field.metadata["meaning"]), "# [backends.process]", "# unsafe_ignore = []"]
        else:
            lines += [*_comment(field.metadata["meaning"]), f"{field.name} = {json.dumps(default)}"]
    return "\n".join((*lines, *sections, ""))


def _laid_over(section: Any, table: Mapping[str, Any], source: str, path: str) -> Any:
    fields = attrs.fields_dict(type(section))
    changes = {}
    for name, value in table.items():
        where = f"{path}{name}"
        field = fields.get(name)
        if field is None:
            raise InvalidArgument(f"{source}: {where}", _unknown(name, fields))
        so_far = getattr(section, name)
        if attrs.has(type(so_far)):
            if not isinstance(value, dict):
                raise InvalidArgument(f"{source}: {where}", "must be a table")
            changes[name] = _laid_over(so_far, value, source, f"{where}.")
            continue
        try:
            changes[name] = field.metadata["check"](value, so_far)
        except ValueError as error:
            raise InvalidArgument(f"{source}: {where}", f"{error}, not {_shown(value)}") from error
    return attrs.evolve(section, **changes)


def _consistent(config: Config) -> Config:
    for name in config.backends:
        if not isinstance(config.backends[name].get("plugin", name), str):
            raise InvalidArgument(f"backends.{name}.plugin", "must be a string")
    if config.streaming.private_key and not config.streaming.certificate:
        raise InvalidArgument("streaming.private_key", "is set without a certificate")
    return config


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"is not known; did you mean {near[0]}?" if near else f"is not known; known: {', '.join(known)}"


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:80]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]
