"""`crishim play`: runs the pods of a manifest to their end on a CRI endpoint."""

import asyncio
import contextlib
import logging
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import click
from rich.console import Console

from crishim import app
from crishim.cli.daemon import start_logging
from crishim.cli.options import exit_on_error
from crishim.cli.pull import shown
from crishim.cli.screen import Screen
from crishim.config import Config
from crishim.linux.cgroups import Cgroups
from crishim.linux.mounts import unmount_below
from crishim.model.values import FrozenDict
from crishim.play import CallError, CriClient, Node, Outcome, Player, Pod, connect, load, parse, take_down
from crishim.play.concurrency import together
from crishim.play.configs import cgroup_parent
from crishim.play.host import pod_cgroups, this_node
from crishim.pods.host import cgroup_v2
from crishim.system import SystemClock

REFUSED: Final = 125
"""The exit status if a pod could not be played at all."""

_PERIOD: Final = 0.25


@click.command(name="play")
@click.argument("manifest", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--endpoint", help="A running CRI runtime, as unix:///path/to.sock; by default a server is started.")
@click.option("--backend", help="The backend of that server: a plug-in, or package.module:attribute; by default process.")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A configuration file for that server; by default none.",
)
@click.option(
    "--metrics-address",
    default="",
    help="HOST:PORT (:PORT is the loopback's, port 0 any free one) for that server's metrics at /metrics; by default none.",
)
@click.option("--down", is_flag=True, help="Stop and remove the file's pods at the endpoint, and play nothing.")
def command(
    manifest: Path, endpoint: str | None, backend: str | None, path: Path | None, metrics_address: str, *, down: bool
) -> None:
    """Play the v1 Pods of MANIFEST (- is stdin) to their end, with their logs, and remove them.

    Lines begin with the seconds since the start. The file may have several Pods, which are played concurrently, and the
    ConfigMaps, Secrets and RuntimeClasses that they name. Without an endpoint a server is started for them, in a temporary
    folder. The exit status is the pods': 0, or that of the first container that failed; 125 if a pod could not be played.
    Ctrl-C stops them with their grace period, a second Ctrl-C without.
    """
    if endpoint and (backend or path or metrics_address):
        raise click.UsageError("--endpoint excludes --backend, --config and --metrics-address: the server has its own")
    if down and not endpoint:
        raise click.UsageError("--down needs --endpoint: a server that was started by play leaves nothing behind")
    start_logging("warning", "text")
    logging.getLogger("crishim.rpc").setLevel(logging.ERROR)  # the player reports failed calls
    with exit_on_error(REFUSED, CallError):
        pods = _pods(sys.stdin.read() if str(manifest) == "-" else manifest.read_text(encoding="utf-8"))
        config = app.read_config(path) if path else Config()
        config = attrs.evolve(config, metrics_address=metrics_address or config.metrics_address)
        sys.exit(asyncio.run(_down(pods, str(endpoint)) if down else _play(pods, endpoint, config, backend)))


def _pods(text: str) -> tuple[Pod, ...]:
    file = load(text)
    seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return tuple(parse(one, uid=str(uuid.uuid4()), seen=seen, objects=file.objects) for one in file.pods)


async def _down(pods: Sequence[Pod], endpoint: str) -> int:
    async with connect(_address(endpoint)) as client:
        screens = await _screens(client, pods, _console())
        for pod, screen in zip(pods, screens, strict=True):
            count = await take_down(client, SystemClock(), pod, screen.report)
            await screen.close()
            if not count:
                screen.say("does not exist at the endpoint")
    return 0


async def _play(pods: Sequence[Pod], endpoint: str | None, config: Config, backend: str | None) -> int:
    with tempfile.TemporaryDirectory(prefix="crishim-play-") as name:
        folder, console = Path(name), _console()
        async with _endpoint(endpoint, config, backend, folder, console) as address, connect(address) as client:
            node = this_node(folder, cgroups=await client.cgroup_driver())
            parents = [cgroup_parent(pod, node) for pod in pods]
            async with pod_cgroups(parents, Cgroups(v2=cgroup_v2())):
                return await _play_on(client, pods, node, console)


def _address(endpoint: str) -> str:
    return endpoint if ":" in endpoint else f"unix://{endpoint}"


@contextlib.asynccontextmanager
async def _endpoint(
    endpoint: str | None, config: Config, backend: str | None, folder: Path, console: Console
) -> AsyncIterator[str]:
    """The endpoint of the option, or that of a server started for it."""
    if endpoint:
        yield _address(endpoint)
        return
    config = attrs.evolve(
        config,
        listen=str(folder / "cri.sock"),
        state=str(folder / "state"),
        runtime_state=str(folder / "run"),
        handlers=FrozenDict({"": backend}) if backend else config.handlers,
    )
    try:
        with shown(console) as progress:
            async with app.running(config, ephemeral=True, progress=progress):
                yield f"unix://{config.listen}"
    finally:
        unmount_below(folder)  # pinned namespaces are mounts, which keep the folder from being removed


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


async def _screens(client: CriClient, pods: Sequence[Pod], console: Console) -> list[Screen]:
    version = await client.version()
    screens = [Screen(console, pod, pods) for pod in pods]
    for screen in screens:
        screen.title(f"{version.runtime_name} {version.runtime_version}")
    return screens


async def _play_on(client: CriClient, pods: Sequence[Pod], node: Node, console: Console) -> int:
    screens = await _screens(client, pods, console)
    players = [Player(client, node, SystemClock(), report=screen.report, period=_PERIOD) for screen in screens]
    playing = asyncio.create_task(_all(players, pods))

    async def hurry() -> None:
        await asyncio.gather(*(player.hurry() for player in players))

    with _interrupts(playing.cancel, hurry) as signals:
        try:
            outcomes = await playing
        except asyncio.CancelledError:
            if not signals:
                raise
            for screen in screens:
                await screen.close()
                screen.say("stopped", "bold yellow")
            return 128 + signals[0]
        finally:
            for screen in screens:
                await screen.close()
    for screen, outcome in zip(screens, outcomes, strict=True):
        screen.end(outcome)
    return next((outcome.code for outcome in outcomes if outcome.code), 0)


async def _all(players: Sequence[Player], pods: Sequence[Pod]) -> list[Outcome]:
    """Play all pods. If one cannot be played the others are stopped, too."""
    async with together() as group:
        tasks = [group.create_task(player.play(pod)) for player, pod in zip(players, pods, strict=True)]
    return [task.result() for task in tasks]


@contextlib.contextmanager
def _interrupts(first: Callable[[], object], again: Callable[[], Awaitable[None]]) -> Iterator[list[int]]:
    """SIGINT or SIGTERM calls `first`, another one `again`; yields the list of the signals received."""
    came: list[int] = []
    hurrying: list[asyncio.Future[None]] = []
    loop = asyncio.get_running_loop()

    def interrupted(number: int) -> None:
        came.append(number)
        if len(came) == 1:
            first()
        else:
            hurrying.append(asyncio.ensure_future(again()))

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, interrupted, number)
    try:
        yield came
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
