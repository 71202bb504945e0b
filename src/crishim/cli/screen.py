"""The output of `crishim play`: the events of players, and the logs of containers, line by line."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from crishim.play import Event, EventKind, Outcome, Pod, PodPhase
from crishim.play.log_tailer import PodLogFollower
from crishim.system import SystemClock

_COLOURS: Final = ("cyan", "magenta", "yellow", "blue", "green", "bright_cyan", "bright_magenta", "bright_yellow")
_STYLES: Final = {
    EventKind.READY: "green",
    EventKind.UNREADY: "yellow",
    EventKind.UNHEALTHY: "red",
    EventKind.HOOK_FAILED: "red",
    EventKind.WAITING: "yellow",
}
_PHASES: Final = {PodPhase.SUCCEEDED: "bold green", PodPhase.FAILED: "bold red"}


class Screen:
    """Shows a player's events and the logs of its containers, line by line; without style if the output is not a terminal.

    `pods` are all pods on the same console: with several of them, containers are shown with their pod's name.
    """

    def __init__(self, console: Console, pod: Pod, pods: Sequence[Pod]) -> None:
        self._console = console
        self._pod = pod
        self._several = len(pods) > 1
        self._begin = time.monotonic()
        names = [one.name for one in pod.everyone]
        self._width = max(len(self._label(each, name)) for each in pods for name in ("", *(one.name for one in each.everyone)))
        self._colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))
        self._clock = SystemClock()
        self._tails: dict[str, PodLogFollower] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._showing = asyncio.create_task(self._show())

    def title(self, runtime: str) -> None:
        """The first line."""
        self._console.print(Text.assemble((f"{self._pod.namespace}/{self._pod.name}", "bold"), ("  on  ", "dim"), runtime))

    def say(self, text: str, style: str = "") -> None:
        """Print a line about the pod."""
        self._print("", "bold", Text(text, style=style))

    def end(self, outcome: Outcome) -> None:
        """The last line."""
        codes = "  ".join(f"{name}={code}" for name, code in outcome.codes)
        whose = f"{self._pod.name}  " if self._several else ""
        self._console.print(Text.assemble(whose, (outcome.phase, _PHASES[outcome.phase]), f"  {codes}" if codes else ""))

    def report(self, event: Event) -> None:
        """Print an event; a log is opened at once, since the file of a short pod may soon be removed."""
        if event.kind is EventKind.STARTED:
            self._tails[event.container] = PodLogFollower(Path(event.log), self._clock)
        self._events.put_nowait(event)

    async def close(self) -> None:
        """Print the rest. May be called twice."""
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

    async def _follow(self, name: str, tail: PodLogFollower) -> None:
        bar = "│" if self._console.is_terminal else "|"
        async for stream, text in tail.lines():
            line = Text.assemble(
                " " * 10,
                (self._label(self._pod, name).rjust(self._width), self._colours[name]),
                (f" {bar} ", "red" if stream == "stderr" else "dim"),
            )
            self._console.print(line.append_text(Text.from_ansi(text)))

    def _line(self, event: Event) -> None:
        text = event.text
        if event.kind is EventKind.PHASE:
            self.say(text, _PHASES.get(PodPhase(text), "bold"))
            return
        if event.kind in {EventKind.CREATED, EventKind.SANDBOX}:
            first, _, rest = text.partition(" ")
            text = " ".join((first[:13], rest)).strip()
        style = _STYLES.get(event.kind, "")
        shown: list[str] = [event.kind.value]
        if event.code is not None:
            shown.append(str(event.code))
            style = "red" if event.code else "green"
        self._print(
            event.container,
            self._colours.get(event.container, "bold"),
            Text.assemble((" ".join(shown), style), (f"  {text}", "dim")),
        )

    def _print(self, name: str, style: str, text: Text) -> None:
        passed = f"{time.monotonic() - self._begin:8.2f}s "
        line = Text.assemble((passed, "dim"), (self._label(self._pod, name).rjust(self._width), style), "   ").append_text(text)
        line.rstrip()
        self._console.print(line)

    def _label(self, pod: Pod, name: str) -> str:
        """A container's name, or the pod's for an empty one."""
        if not name:
            return pod.name
        return f"{pod.name}/{name}" if self._several else name
