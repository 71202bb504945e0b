"""The overviews show the packages that there are, and a pod's life as it is."""

import asyncio
import re
from typing import Any

from crishim.cri import Dispatcher, pb
from crishim.interfaces.backend import Backend
from crishim.testing import Harness
from crishim.testing.harness import IMAGE
from docs.tools import overview
from docs.tools.reference import DOCS
from tests.test_house import FLOORS

VERBS = {name for name, value in vars(Backend).items() if getattr(value, "__isabstractmethod__", False)}


def texts(drawing: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", drawing)


def test_every_package_is_drawn_once() -> None:
    """The packages of the picture are those of the plan, each on its floor."""
    plan = overview.floors((DOCS / "architecture.md").read_text())
    assert {name: floor for floor, names in plan.items() for name in names} == FLOORS
    drawn = texts(overview.architecture_svg(plan))
    assert sorted(FLOORS) == sorted(text for text in drawn if text in FLOORS)


def test_pictures_stay_inside_their_cards() -> None:
    """No box and no line of text begins outside of the picture."""
    plan = overview.floors((DOCS / "architecture.md").read_text())
    for drawing in (overview.architecture_svg(plan), overview.ways_svg(), overview.pod_svg()):
        found = re.search(r'viewBox="0 0 (\d+) (\d+)"', drawing)
        assert found
        width, height = map(int, found.groups())
        assert [] == [x for x in re.findall(r' x[12]?="(-?\d+)"', drawing) if not 0 <= int(x) <= width]
        assert [] == [y for y in re.findall(r' y[12]?="(-?\d+)"', drawing) if not 0 <= int(y) <= height]
        assert "<script" not in drawing


def test_the_ten_verbs_are_in_a_pods_life() -> None:
    """Each verb of the contract stands beside one call, and each call and verb in the picture."""
    assert sorted(VERBS) == sorted(verb for step in overview.LIFE for verb in step.verbs)
    drawn = texts(overview.pod_svg())
    assert {step.call for step in overview.LIFE} | {", ".join(step.verbs) for step in overview.LIFE} <= set(drawn)


async def test_a_pods_life_is_as_drawn() -> None:
    """The calls of the picture, made in its order, lead to the verbs beside them and no others."""
    world, seen = Harness(), dict[str, tuple[str, ...]]()

    async def step(call: str, **fields: Any) -> Any:
        before = len(world.fake.calls)
        reply = await Dispatcher(world.services)(getattr(pb, f"{call}Request")(**fields))
        expected = next(step.verbs for step in overview.LIFE if step.call == call)
        async with asyncio.timeout(10):
            while (made := _verbs(world, before)) != expected and len(made) < len(expected):  # noqa: ASYNC110 - a call log has no event
                await asyncio.sleep(0)
        seen[call] = made
        return reply

    async with world:
        seen["the server starts"] = _verbs(world, 0)
        config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="pod", namespace="ns", uid="u"))
        pod = (await step("RunPodSandbox", config=config)).pod_sandbox_id
        main = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="main"), image=pb.ImageSpec(image=IMAGE), command=["sleep"]
        )
        container = (await step("CreateContainer", pod_sandbox_id=pod, config=main, sandbox_config=config)).container_id
        await step("StartContainer", container_id=container)
        await step("StopContainer", container_id=container, timeout=10)
        await step("RemoveContainer", container_id=container)
        await step("StopPodSandbox", pod_sandbox_id=pod)
        await step("RemovePodSandbox", pod_sandbox_id=pod)
    assert {step.call: step.verbs for step in overview.LIFE} == seen


def _verbs(world: Harness, since: int) -> tuple[str, ...]:
    """The ten verbs that were called since then; not those of capabilities."""
    return tuple(verb for verb, _ in world.fake.calls[since:] if verb in VERBS)
