"""The command line: `crishim serve`, `play`, `check`, `config`; `coverage` is in `commands`."""

import asyncio
import contextlib
import itertools
import logging
import platform
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from importlib import util
from pathlib import Path
from typing import Final

import attrs
import click
from rich.console import Console
from rich.text import Text

from crishim import __version__, app
from crishim.commands.coverage import coverage_command
from crishim.commands.told import told
from crishim.config import Config, default_text
from crishim.daemon import start_logging
from crishim.interfaces.checks import Finding
from crishim.model.frozen import FrozenDict
from crishim.plugins import PluginError, installed, load
from crishim.system import SystemClock
from crishim.testing.kubelet import CriClient, Event, EventKind, Outcome, Phase, Player, Pod, connect, parse
from crishim.testing.kubelet import load as load_manifest
from crishim.testing.kubelet.here import this_node
from crishim.testing.kubelet.tail import LogTail

REFUSED: Final = 125
"""The exit status of `play` where the pod could not be played at all."""

_PERIOD: Final = 0.25
_COLOURS: Final = ("cyan", "magenta", "yellow", "blue", "green", "bright_cyan", "bright_magenta", "bright_yellow")
_STYLES: Final = {
    EventKind.READY: "green",
    EventKind.UNREADY: "yellow",
    EventKind.UNHEALTHY: "red",
    EventKind.HOOK_FAILED: "red",
    EventKind.WAITING: "yellow",
}
_PHASES: Final = {Phase.SUCCEEDED: "bold green", Phase.FAILED: "bold red"}
_EXTRAS: Final = (
    ("streaming", ("h11", "wsproto"), "exec, attach and port-forward"),
    ("metrics", ("prometheus_client", "h11"), "figures for Prometheus"),
)

config_option = click.option(
    "--config", "path", type=click.Path(path_type=Path, dir_okay=False), help=f"The file; {app.CONFIG_FILE} without."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="crishim", message="%(prog)s %(version)s")
def main() -> None:
    """CRI requests mapped onto a ten-verb backend."""


@main.command()
@config_option
def serve(path: Path | None) -> None:
    """Serve CRI until SIGTERM or SIGINT; containers go on."""
    with told():
        asyncio.run(app.serve(app.read_config(path)))


@main.command()
@click.argument("manifest", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--endpoint", help="A CRI runtime that serves already, as unix:///path/to.sock.")
@click.option("--backend", help="The backend of a server of our own: a plug-in, or package.module:function.")
@click.option("--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="A file with options for that backend.")
@click.option("--metrics-address", default="", help="HOST:PORT for figures of that server at /metrics, for Prometheus.")
def play(manifest: Path, endpoint: str | None, backend: str | None, path: Path | None, metrics_address: str) -> None:
    """Play a v1 Pod manifest to its end, with its logs, and remove it.

    Without an endpoint a server of our own is started for it, in a temporary folder. The exit status is the pod's: 0, or that
    of its first container that failed; 125 if it could not be played. Ctrl-C stops the pod with its grace, twice without.
    """
    if endpoint and (backend or path or metrics_address):
        raise click.UsageError("--endpoint goes without --backend, --config and --metrics-address: the server has its own")
    start_logging("warning", "text")
    logging.getLogger("crishim.rpc").setLevel(logging.ERROR)  # the player tells of calls that fail
    with told(REFUSED):
        text = sys.stdin.read() if str(manifest) == "-" else manifest.read_text(encoding="utf-8")
        seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pod = parse(load_manifest(text), uid=str(uuid.uuid4()), seen=seen)
        config = app.read_config(path) if path else Config()
        config = attrs.evolve(config, metrics_address=metrics_address or config.metrics_address)
        sys.exit(asyncio.run(_play(pod, endpoint, config, backend)))


@main.command()
@config_option
def check(path: Path | None) -> None:
    """What this machine offers each backend, what is missing, and the command that brings it."""
    with told():
        config = app.read_config(path)
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"crishim {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}")
        used = {config.plugin_of(name) for name in config.backend_names}
        whole = _print_findings(console, "crishim", _own_findings(config))
        for name in sorted({*installed(), *used}):
            title = f"backend {name}" + ("" if name in used else " (no handler uses it)")
            try:
                plugin = load(name)
                findings = plugin.check() if plugin.check else ()
            except PluginError as error:
                findings = (Finding(what="plug-in", ok=False, without=error.message),)
            complete = _print_findings(console, title, findings)
            whole = whole and (complete or name not in used)
        sys.exit(0 if whole else 1)


main.add_command(coverage_command)


@main.group(name="config")
def config_group() -> None:
    """The configuration file."""


@config_group.command(name="default")
def config_default() -> None:
    """Print a commented file with every key at its default."""
    click.echo(default_text(), nl=False)


@config_group.command(name="check")
@config_option
def config_check(path: Path | None) -> None:
    """Read the file and its drop-ins, and load the backends that they name."""
    with told():
        config = app.read_config(path)
        app.plugins_of(config)
        for handler, backend in config.handlers.items():
            click.echo(f"handler {handler or 'default'}: backend {backend}")
        click.echo(f"serves {config.listen}")


async def _play(pod: Pod, endpoint: str | None, config: Config, backend: str | None) -> int:
    with tempfile.TemporaryDirectory(prefix="crishim-play-") as name:
        folder = Path(name)
        async with _endpoint(endpoint, config, backend, folder) as address, connect(address) as client:
            return await _play_on(client, pod, folder)


@contextlib.asynccontextmanager
async def _endpoint(endpoint: str | None, config: Config, backend: str | None, folder: Path) -> AsyncIterator[str]:
    """The endpoint that was given, or one of a server of our own."""
    if endpoint:
        yield endpoint if ":" in endpoint else f"unix://{endpoint}"
        return
    config = attrs.evolve(
        config,
        listen=str(folder / "cri.sock"),
        state=str(folder / "state"),
        runtime_state=str(folder / "run"),
        handlers=FrozenDict({"": backend}) if backend else config.handlers,
    )
    async with app.running(config, ephemeral=True):
        yield f"unix://{config.listen}"


async def _play_on(client: CriClient, pod: Pod, folder: Path) -> int:
    version = await client.version()
    screen = Screen(Console(highlight=False, soft_wrap=True), pod)
    screen.title(f"{pod.namespace}/{pod.name}", f"{version.runtime_name} {version.runtime_version}")
    node = this_node(folder, cgroups=await client.cgroup_driver())
    player = Player(client, node, SystemClock(), report=screen.report, period=_PERIOD)
    playing = asyncio.create_task(player.play(pod))
    with _interrupts(playing.cancel, player.hurry) as signals:
        try:
            outcome = await playing
        except asyncio.CancelledError:
            if not signals:
                raise
            await screen.close()
            screen.say("stopped", "bold yellow")
            return 128 + signals[0]
        finally:
            await screen.close()
    screen.end(outcome)
    return outcome.code


@contextlib.contextmanager
def _interrupts(first: Callable[[], object], again: Callable[[], Awaitable[None]]) -> Iterator[list[int]]:
    """SIGINT or SIGTERM calls `first`, another one `again`; the list holds the numbers that came."""
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


class Screen:
    """Shows what a player tells, and the logs of its containers, line by line; plain where there is no terminal."""

    def __init__(self, console: Console, pod: Pod) -> None:
        self._console = console
        self._pod = pod
        self._begin = time.monotonic()
        names = [one.name for one in pod.everyone]
        self._width = max(len(name) for name in (pod.name, *names))
        self._colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))
        self._clock = SystemClock()
        self._tails: dict[str, LogTail] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._showing = asyncio.create_task(self._show())

    def title(self, pod: str, runtime: str) -> None:
        """The first line."""
        self._console.print(Text.assemble((pod, "bold"), ("  on  ", "dim"), runtime))

    def say(self, text: str, style: str = "") -> None:
        """A line about the pod."""
        self._print(self._pod.name, "bold", Text(text, style=style))

    def end(self, outcome: Outcome) -> None:
        """The last line."""
        codes = "  ".join(f"{name}={code}" for name, code in outcome.codes)
        self._console.print(Text.assemble((outcome.phase, _PHASES[outcome.phase]), f"  {codes}" if codes else ""))

    def report(self, event: Event) -> None:
        """Take an event; a log is opened at once, since a short pod's may soon be gone."""
        if event.kind is EventKind.STARTED:
            self._tails[event.container] = LogTail(Path(event.log), self._clock)
        self._events.put_nowait(event)

    async def close(self) -> None:
        """Show what is left. May be called twice."""
        self._events.put_nowait(None)
        await self._showing

    async def _show(self) -> None:
        while (event := await self._events.get()) is not None:
            if event.kind is EventKind.EXITED and (reading := self._reading.pop(event.container, None)):
                self._tails[event.container].end()
                await reading
            self._line(event)
            if event.kind is EventKind.STARTED:
                tail = self._tails[event.container]
                self._reading[event.container] = asyncio.create_task(self._follow(event.container, tail))
        for name, reading in self._reading.items():
            self._tails[name].end()
            await reading
        self._reading.clear()

    async def _follow(self, name: str, tail: LogTail) -> None:
        bar = "│" if self._console.is_terminal else "|"
        async for stream, text in tail.lines():
            line = Text.assemble(
                " " * 10, (name.rjust(self._width), self._colours[name]), (f" {bar} ", "red" if stream == "stderr" else "dim")
            )
            self._console.print(line.append_text(Text.from_ansi(text)))

    def _line(self, event: Event) -> None:
        text = event.text
        if event.kind is EventKind.PHASE:
            self.say(text, _PHASES.get(Phase(text), "bold"))
            return
        if event.kind in {EventKind.CREATED, EventKind.SANDBOX}:
            first, _, rest = text.partition(" ")
            text = " ".join((first[:13], rest)).strip()
        style = _STYLES.get(event.kind, "")
        told: list[str] = [event.kind.value]
        if event.code is not None:
            told.append(str(event.code))
            style = "red" if event.code else "green"
        name = event.container or self._pod.name
        self._print(
            name, self._colours.get(event.container, "bold"), Text.assemble((" ".join(told), style), (f"  {text}", "dim"))
        )

    def _print(self, name: str, style: str, text: Text) -> None:
        passed = f"{time.monotonic() - self._begin:8.2f}s "
        line = Text.assemble((passed, "dim"), (name.rjust(self._width), style), "   ").append_text(text)
        line.rstrip()
        self._console.print(line)


def _own_findings(config: Config) -> list[Finding]:
    """What crishim itself needs, whatever the backends do."""
    findings = []
    for extra, modules, what in _EXTRAS:
        missing = [module for module in modules if util.find_spec(module) is None]
        findings.append(
            Finding(
                what=f"extra {extra}",
                ok=not missing,
                needed=False,
                found=", ".join(modules) if not missing else "",
                without=f"no {what}",
                remedy=f"pip install 'crishim[{extra}]'",
            )
        )
    for folder in (config.state, config.runtime_state):
        near = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
        writable = _writable(near)
        findings.append(
            Finding(what=folder, ok=writable, found=f"{near} is writable", without="no state is kept", remedy="run as root")
        )
    return findings


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _print_findings(console: Console, title: str, findings: Iterable[Finding]) -> bool:
    """Show them; whether everything that is needed is there."""
    shown = list(findings) or [Finding(what="needs nothing", ok=True)]
    width = max(len(finding.what) for finding in shown)
    console.print(Text.assemble("\n", (title, "bold")))
    for finding in shown:
        word, style = ("ok", "green") if finding.ok else ("missing", "red") if finding.needed else ("absent", "yellow")
        note = finding.found if finding.ok else "; ".join(part for part in (finding.without, finding.remedy) if part)
        line = Text.assemble("  ", (word.ljust(8), style), finding.what.ljust(width), "  ", note)
        line.rstrip()
        console.print(line)
    return all(finding.ok or not finding.needed for finding in shown)
