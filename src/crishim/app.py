"""The composition root: the only module that imports all parts. `running(config)` is a node's runtime inside an
`async with`.
"""

import asyncio
import contextlib
import glob
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from crishim import __version__
from crishim.cni.network import CniNetwork, SetnsDialer
from crishim.config import Config, parse
from crishim.cri import Dispatcher
from crishim.cri.dispatch import Call, log_call
from crishim.errors import AlreadyExists, CrishimError, InvalidArgument, PermissionDenied
from crishim.images.skopeo import PullSettings
from crishim.images.skopeo_process import PullProgress
from crishim.images.store import ContentStore
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.capabilities import SupportsClose, capabilities
from crishim.interfaces.keeper import Keeper
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Clock, ImageService, NetnsDialer, Observer
from crishim.interfaces.tracing import Tracer
from crishim.keeper.client import KeeperClient
from crishim.linux.children import become_subreaper
from crishim.linux.processes import boot_id
from crishim.model.runtime import CgroupDriver
from crishim.model.values import SandboxId
from crishim.plugins import build, load
from crishim.pods.host import cgroup_driver, cgroup_v2
from crishim.pods.namespaces import NoNamespaces, PinnedNamespaces
from crishim.server import serve
from crishim.service.backends import Settings
from crishim.service.services import Services
from crishim.shimv2.client.files import SHIMS, SandboxFolder
from crishim.store.sqlite import SqliteStore
from crishim.system import SystemClock

__all__ = ["Progressed", "read_config", "running", "store"]

if TYPE_CHECKING:
    from crishim.nri.adaptation import NodeResourceInterface

Progressed = Callable[[PullProgress], None]
"""Receives the progress of pulls, on the event loop."""

CONFIG_FILE: Final = Path("/etc/crishim/crishim.toml")

_log = logging.getLogger(__name__)


def read_config(path: Path | None = None) -> Config:
    """The configuration of `path` and of `conf.d/*.toml` beside it, in the order of their names.

    Without a path, the default file, which may be missing. Raises `InvalidArgument` naming the file and the key.
    """
    main = path or CONFIG_FILE
    files = [main] if path is not None or main.exists() else []
    files += sorted(main.parent.glob("conf.d/*.toml"))
    try:
        return parse([(str(file), file.read_bytes()) for file in files])
    except FileNotFoundError as error:
        raise InvalidArgument(str(error.filename), "does not exist") from error
    except OSError as error:
        raise PermissionDenied(f"{error.filename}: {error.strerror}") from error


@contextlib.asynccontextmanager
async def running(config: Config, *, ephemeral: bool = False, progress: Progressed | None = None) -> AsyncIterator[Services]:
    """Serve CRI on `config.listen` inside the `async with`. Containers keep running after it, unless it is `ephemeral`.

    `progress` receives the progress of pulls into the node's own store. Raises `PluginError` for a backend that cannot be
    loaded or built, `FailedPrecondition` if another process serves on the socket, and the record store's errors.
    """
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        for folder in (config.state, config.runtime_state):
            _make(Path(folder))
        store = SqliteStore(records_file(config))
        stack.push_async_callback(store.close)
        plugins = plugins_of(config)
        metrics = _metrics(config)
        tracer = await stack.enter_async_context(_traced(config))
        needs_node = any(plugin.needs_node for plugin in plugins.values())
        node = await stack.enter_async_context(_node(config, clock, metrics, progress, needs_node=needs_node))
        keeper = KeeperClient(Path(config.runtime_state) / "keeper", slice_name=_slice(config, needs_node=needs_node))
        seats = {name: _seat(config, name, plugins[name], node, clock, keeper) for name in config.backend_names}
        if ephemeral:
            for backend, _ in seats.values():
                stack.push_async_callback(_close, backend)
        images = {handler: seats[name][1] for handler, name in config.handlers.items()}
        streams = _streams(config, clock)
        plugins_of_node = None if ephemeral else _nri(config)
        services = Services(
            backends={handler: seats[name][0] for handler, name in config.handlers.items()},
            images={handler: service for handler, service in images.items() if service is not None},
            network=node.network,
            namespaces=node.namespaces or NoNamespaces(),
            dialer=node.dialer,
            store=store,
            urls=streams,
            clock=clock,
            observer=metrics,
            plugins=plugins_of_node,
            settings=_settings(config, driver_of(config) if needs_node or config.cgroup_driver else None),
        )
        await stack.enter_async_context(services)
        await stack.enter_async_context(_upgrading(keeper))
        await stack.enter_async_context(_collecting(node, services, config.deadlines.network))
        if plugins_of_node is not None:
            await stack.enter_async_context(plugins_of_node.serving(services.plugin_host))
        if streams is not None:
            await stack.enter_async_context(streams.serving(services.streams))
        if metrics is not None:
            metrics.attend(services.gauges, streams.traffic if streams is not None else None)
            await stack.enter_async_context(_scraped(metrics, config.metrics_address, services))
        await stack.enter_async_context(_shims(config, clock))
        await stack.enter_async_context(serve(Dispatcher(services, _observers(metrics), tracer=tracer), config.listen))
        yield services


def records_file(config: Config) -> Path:
    """The path of the file of records."""
    return Path(config.state) / "records.sqlite"


def forget_leftovers(config: Config, sandbox_id: str) -> None:
    """Delete the record of a dead shim's leftovers for a sandbox, whether or not they are freed. For use while no
    server runs.
    """
    for folder in Path(config.runtime_state).glob(f"backends/*/{SHIMS}/{glob.escape(sandbox_id)}"):
        shim = SandboxFolder(folder).shim()
        if shim is None or shim.dead:
            shutil.rmtree(folder)


def store(config: Config, progress: Progressed | None = None) -> ContentStore:
    """The node's image store, to be closed. Raises `FailedPrecondition` while a server has it locked."""
    return _images(config, SystemClock(), None, progress)


def plugins_of(config: Config) -> Mapping[str, Plugin]:
    """The plug-ins of the backends that the configuration uses. Raises `PluginError`."""
    return {name: load(config.plugin_of(name)) for name in config.backend_names}


@attrs.frozen(kw_only=True)
class _Node:
    """The parts of a node that backends share; None if no backend needs them."""

    images: ContentStore | None = None
    namespaces: PinnedNamespaces | None = None
    network: CniNetwork | None = None
    dialer: NetnsDialer | None = None


@contextlib.asynccontextmanager
async def _node(
    config: Config, clock: Clock, observer: Observer | None, progress: Progressed | None, *, needs_node: bool
) -> AsyncIterator[_Node]:
    if not needs_node:
        yield _Node()
        return
    state, run = Path(config.state), Path(config.runtime_state)
    images = _images(config, clock, observer, progress)
    plugins = [Path(folder) for folder in config.network.plugins]
    network = CniNetwork(Path(config.network.config), plugins, _make(state / "cni"))
    try:
        await network.begin()
        yield _Node(images=images, namespaces=PinnedNamespaces(run / "namespaces"), network=network, dialer=SetnsDialer())
    finally:
        await network.close()
        await images.close()


@contextlib.asynccontextmanager
async def _collecting(node: _Node, services: Services, deadline: float) -> AsyncIterator[None]:
    """Free networks and namespaces of pods without a record, in the background: plugins may hang."""

    async def collect() -> None:
        known = {SandboxId(name) for name in services.known_sandboxes()}
        for seat in (node.network, node.namespaces):
            try:
                async with asyncio.timeout(deadline):
                    if seat is not None:
                        await seat.collect(known)
            except (CrishimError, TimeoutError) as error:
                _log.warning(
                    "networks and namespaces of pods without a record could not all be freed: %s", error or "it took too long"
                )

    task = asyncio.create_task(collect(), name="collection of garbage")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _upgrading(keeper: KeeperClient) -> AsyncIterator[None]:
    """Have a keeper of an older version execute this one's code, in the background."""

    async def upgrade() -> None:
        try:
            if await keeper.upgrade():
                _log.info("the keeper was upgraded")
        except (CrishimError, TimeoutError) as error:
            _log.warning("the keeper was not upgraded: %s", error or "it does not answer")

    task = asyncio.create_task(upgrade(), name="upgrade of the keeper")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _shims(config: Config, clock: Clock) -> AsyncIterator[None]:
    """Serve containerd's tasks, where that is configured, and unless a daemon of its own does."""
    async with contextlib.AsyncExitStack() as stack:
        if config.shim.serve:
            from crishim.backends.runc.shim import runc
            from crishim.shimv2.server.daemon import ShimServer

            become_subreaper()
            folder = Path(config.shim.folder)
            try:
                await stack.enter_async_context(ShimServer(folder, runc(folder), clock).serving())
            except AlreadyExists as error:
                _log.warning("containerd's tasks are not served here: another process does, until it ends (%s)", error)
        yield


def _slice(config: Config, *, needs_node: bool) -> str:
    """The slice for the keeper's scope; empty where it stays in the server's cgroup."""
    return "system.slice" if needs_node and driver_of(config) is CgroupDriver.SYSTEMD else ""


def _images(config: Config, clock: Clock, observer: Observer | None, progress: Progressed | None) -> ContentStore:
    images = config.images
    pulls = PullSettings(
        registries_conf=images.registries_conf, policy=images.policy, authfile=images.authfile, stall=images.stall
    )
    folder = _make(Path(config.state) / "images")
    return ContentStore(folder, clock, pulls, pinned=images.pinned, observer=observer, progress=progress)


def _seat(
    config: Config, name: str, plugin: Plugin, node: _Node, clock: Clock, keeper: Keeper
) -> tuple[Backend, ImageService | None]:
    handler = next(handler for handler, backend in config.handlers.items() if backend == name)
    context = BackendContext(
        handler=handler,
        state=_make(Path(config.state) / "backends" / name),
        runtime_state=_make(Path(config.runtime_state) / "backends" / name),
        options=config.options_of(name),
        clock=clock,
        rootfs=node.images if plugin.needs_node else None,
        namespaces=node.namespaces if plugin.needs_node else None,
        keeper=keeper,
        cgroup_driver=driver_of(config),
    )
    images = build(plugin.images, context, name) if plugin.images else node.images if plugin.needs_node else None
    return build(plugin.build, context, name), images


def _nri(config: Config) -> "NodeResourceInterface | None":
    """The plugins of the node; None where there are none, and then nothing of NRI is loaded."""
    nri = config.nri
    if not nri.enabled or os.geteuid() != 0:
        return None
    from crishim.nri.adaptation import NodeResourceInterface, NriSettings
    from crishim.nri.connection import TimeLimits
    from crishim.nri.convert import CgroupSetup

    limits = TimeLimits(registration=nri.registration_timeout, request=nri.request_timeout)
    setup = CgroupSetup(v2=cgroup_v2(), systemd=driver_of(config) is CgroupDriver.SYSTEMD)
    socket, plugins, configurations = Path(nri.socket), Path(nri.plugins), Path(nri.configurations)
    settings = NriSettings(socket=socket, plugins=plugins, configurations=configurations, limits=limits, cgroups=setup)
    return NodeResourceInterface(settings, __version__)


def _streams(config: Config, clock: Clock) -> Any:
    """The streaming server; None without the extra `streaming`."""
    try:
        from crishim.streaming.server import StreamConfig, StreamServer
    except ImportError as error:
        _log.warning("no exec, attach or port-forward (%s): they need pip install 'crishim[streaming]'", error)
        return None
    streaming = config.streaming
    return StreamServer(
        StreamConfig(host=streaming.host, port=streaming.port, base_url=streaming.base_url, tls=_tls(config)), clock=clock
    )


def _metrics(config: Config) -> Any:
    """The metrics; None if they are not configured. Raises `InvalidArgument` without the extra `metrics`."""
    if not config.metrics_address:
        return None
    try:
        from crishim.metrics.endpoint import split_address
        from crishim.metrics.prometheus import Metrics
    except ImportError as error:
        raise InvalidArgument("metrics_address", f"{error}: pip install 'crishim[metrics]' brings it") from error
    split_address(config.metrics_address)
    return Metrics(__version__)


def _traced(config: Config) -> AbstractAsyncContextManager[Tracer | None]:
    """The tracer; None if no collector is configured. Raises `InvalidArgument` without the extra `tracing`."""
    tracing = config.tracing
    if not tracing.endpoint:
        return contextlib.nullcontext()
    try:
        from crishim.tracing import exporting
    except ImportError as error:
        raise InvalidArgument("tracing.endpoint", f"{error}: pip install 'crishim[tracing]' brings it") from error
    return exporting(tracing.endpoint, tracing.sampling, __version__)


def _scraped(metrics: Any, address: str, services: Services) -> AbstractAsyncContextManager[str]:
    from crishim.metrics.cadvisor import ContainerFamilies
    from crishim.metrics.endpoint import scraped

    async def containers() -> ContainerFamilies:
        return ContainerFamilies(await services.stats.metric_descriptors(), await services.stats.metrics())

    return scraped(metrics, address, containers)


def _observers(metrics: Any) -> Callable[[Call], None]:
    if metrics is None:
        return log_call

    def tell(call: Call) -> None:
        log_call(call)
        metrics.call_ended(call)

    return tell


def _tls(config: Config) -> Any:
    """The TLS context of the streaming server; None without a certificate.

    The files are checked at each connection, and read again when they have changed, since certificates are rotated.
    """
    streaming = config.streaming
    if not streaming.certificate:
        return None
    import ssl

    files = [name for name in (streaming.certificate, streaming.private_key) if name]

    def stamps() -> list[tuple[int, int]]:
        return [(status.st_mtime_ns, status.st_ino) for status in map(os.stat, files)]

    def load() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(streaming.certificate, streaming.private_key or None)
        return context

    try:
        loaded, current = stamps(), load()
    except OSError as error:
        raise InvalidArgument("streaming.certificate", f"cannot be loaded: {error}") from error

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current, loaded
        try:
            if (now := stamps()) != loaded:
                current, loaded = load(), now
        except OSError as error:
            _log.warning("the new certificate %s cannot be loaded, and the old one is used: %s", streaming.certificate, error)
        connection.context = current

    first = current
    first.sni_callback = renew
    return first


def driver_of(config: Config) -> CgroupDriver:
    """The cgroup driver: as configured, else the one that fits this machine."""
    return CgroupDriver[config.cgroup_driver.upper()] if config.cgroup_driver else cgroup_driver()


def _settings(config: Config, driver: CgroupDriver | None) -> Settings:
    return Settings(
        runtime_version=__version__,
        boot_id=boot_id(),
        cgroup_driver=driver,
        deadlines=config.deadlines,
        remove_unrecorded_after=config.remove_unrecorded_after,
    )


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    except OSError as error:
        raise PermissionDenied(f"{folder}: {error.strerror}") from error
    return folder


async def _close(backend: Backend) -> None:
    if SupportsClose in capabilities(backend):
        await cast("SupportsClose", backend).close()
