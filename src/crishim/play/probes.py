"""Probes: startup first, then liveness and readiness beside each other."""

from collections.abc import Awaitable, Callable

from crishim.interfaces.seams import Clock
from crishim.play.concurrency import together
from crishim.play.handlers import Target, probe
from crishim.play.pod import PodContainer, Probe


class Prober:
    """The probes of one running container.

    `started` is called once the container counts as started, `ready` whenever its readiness changes, `unhealthy` with the word
    for the probe and its last output when a liveness or startup probe has failed for good; probing then ends.
    """

    def __init__(
        self,
        target: Target,
        clock: Clock,
        one: PodContainer,
        *,
        started: Callable[[], None],
        ready: Callable[[bool], None],
        unhealthy: Callable[[Probe, str, str], Awaitable[None]],
    ) -> None:
        self._target = target
        self._clock = clock
        self._one = one
        self._started = started
        self._ready = ready
        self._unhealthy = unhealthy
        self._output = ""

    async def run(self) -> None:
        """Probe until cancelled, or until a probe has failed for good."""
        one = self._one
        if one.startup is not None and not await self._comes_up(one.startup):
            await self._unhealthy(one.startup, "startup", self._output)
            return
        self._started()
        async with together() as group:
            if one.readiness is None:
                self._ready(True)
            else:
                group.create_task(self._watch_readiness(one.readiness))
            if one.liveness is not None:
                group.create_task(self._watch_liveness(one.liveness))

    async def _comes_up(self, probe: Probe) -> bool:
        """Whether a startup probe succeeds before it has failed too often."""
        await self._clock.sleep(probe.initial_delay)
        good = bad = 0
        while True:
            result = await self._ask(probe)
            if result is not None:
                good, bad = (good + 1, 0) if result else (0, bad + 1)
            if good >= probe.successes:
                return True
            if bad >= probe.failures:
                return False
            await self._clock.sleep(probe.period)

    async def _watch_readiness(self, probe: Probe) -> None:
        await self._clock.sleep(probe.initial_delay)
        ready = False
        row = 0
        while True:
            result = await self._ask(probe)
            row = row + 1 if result is not None and result is not ready else 0
            if row >= (probe.failures if ready else probe.successes):
                ready, row = not ready, 0
                self._ready(ready)
            await self._clock.sleep(probe.period)

    async def _watch_liveness(self, probe: Probe) -> None:
        await self._clock.sleep(probe.initial_delay)
        bad = 0
        while bad < probe.failures:
            result = await self._ask(probe)
            if result is not None:
                bad = 0 if result else bad + 1
            if bad < probe.failures:
                await self._clock.sleep(probe.period)
        await self._unhealthy(probe, "liveness", self._output)

    async def _ask(self, wanted: Probe) -> bool | None:
        """Success, failure, or None when the probe itself could not be run: the kubelet throws such a result away."""
        answer = await probe(self._target, wanted.handler, wanted.timeout)
        self._output = answer.text
        return answer.ok
