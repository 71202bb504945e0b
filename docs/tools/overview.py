"""Draws the packages, the two ways in, and the life of a pod (pure)."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from docs.tools.svg import BLUE, GREY, arrow, box, card, words

_WIDTH: Final = 960

LAYERS: Final = {
    7: "the program",
    6: "what joins all",
    5: "servers and kits",
    4: "backends, the protocols' ends",
    3: "what CRI means; adapters",
    2: "interfaces, rules, tools",
    1: "values, errors, Linux",
}


def floors(page: str) -> dict[int, list[str]]:
    """The packages of each layer, as docs/architecture.md lists them."""
    return {int(floor): names.split() for floor, names in re.findall(r"^floor (\d) +(.*)$", page, re.MULTILINE)}


def architecture_svg(plan: Mapping[int, list[str]]) -> str:
    """The packages as layers, the program above."""
    return card(_WIDTH, 20 + 62 * len(plan) + 16, _layers(plan))


def _layers(plan: Mapping[int, list[str]]) -> Iterator[str]:
    for row, floor in enumerate(sorted(plan, reverse=True)):
        y = 20 + 62 * row
        yield words(20, y + 20, f"floor {floor}", bold=True)
        yield words(20, y + 38, LAYERS[floor], size=12, fill=GREY)
        x, gap = 235, 8
        letters = sum(len(name) + 4 for name in plan[floor])
        room = _WIDTH - x - 20 - gap * (len(plan[floor]) - 1)
        for name in plan[floor]:
            width = room * (len(name) + 4) // letters
            yield from box(x, y, width, 46, name)
            x += width + gap
    yield arrow(217, 26, 217, 20 + 62 * len(plan) - 20)
    yield words(
        20,
        20 + 62 * len(plan) + 4,
        "A package imports from floors below its own; the arrow is the direction.",
        size=12,
        fill=GREY,
    )


def ways_svg() -> str:
    """The kubelet's way to a runtime, and containerd's."""
    return card(_WIDTH, 520, _ways())


def _ways() -> Iterator[str]:
    yield from box(130, 20, 300, 46, "kubelet, crictl")
    yield from box(660, 20, 230, 46, "containerd")
    yield arrow(280, 66, 280, 106)
    yield words(290, 90, "CRI over gRPC, or messages in a program", size=12)
    yield arrow(775, 66, 775, 206)
    yield words(785, 140, "shim v2 over ttrpc", size=12)
    yield from box(130, 106, 300, 50, "server, cri", "43 calls; messages to frozen values")
    yield arrow(280, 156, 280, 186)
    yield from box(130, 186, 300, 66, "service", "names, states, stops, events, records;", "recovery after a restart")
    yield from box(660, 206, 230, 66, "shimv2.server", "tasks, execs, events;", "pods of containerd 2")
    yield arrow(190, 252, 130, 312)
    yield arrow(370, 252, 430, 312)
    yield words(280, 290, "Backend: ten verbs", anchor="middle", bold=True)
    yield from box(20, 312, 230, 66, "your backend", "or docker, process")
    yield from box(310, 312, 250, 66, "pods", "namespaces, root file systems,", "config.json, usage")
    yield arrow(435, 378, 480, 440)
    yield arrow(775, 272, 690, 440)
    yield words(585, 420, "OciRuntime: seven verbs", anchor="middle", bold=True)
    yield from box(440, 440, 300, 60, "your runtime", "or runc, crun, gVisor, another project's shim")


def icon_svg() -> str:
    """The site's mark in a browser's tab: two layers on a third."""
    bars = "".join(
        f'<rect x="{x}" y="{y}" width="{width}" height="12" rx="3"/>'
        for x, y, width in ((8, 10, 20), (36, 10, 20), (8, 42, 48))
    )
    shim = '<rect x="8" y="26" width="48" height="12" rx="3" fill="#ffb300"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><g fill="{BLUE}">{bars}</g>{shim}</svg>\n'


@attrs.frozen
class Step:
    """A call of CRI, or what happens by itself; what crishim does, line by line; and the verbs of the backend that it calls."""

    call: str
    does: tuple[str, ...]
    verbs: tuple[str, ...]


LIFE: Final = (
    Step("the server starts", ("loads the records, compares them", "with what the backend has"), ("probe", "inventory")),
    Step("RunPodSandbox", ("reserves the name, writes the record,", "makes netns and network"), ("start_sandbox",)),
    Step("CreateContainer", ("resolves request and image to a spec,", "writes the record"), ("create_container",)),
    Step("StartContainer", ("one wait for each container begins",), ("start_container", "wait_container")),
    Step(
        "StopContainer", ("stop signal, grace period, SIGKILL;", "the wait returns: exit recorded, event"), ("kill_container",)
    ),
    Step("RemoveContainer", ("forgets the container",), ("remove_container",)),
    Step("StopPodSandbox", ("kills containers that run,", "frees the network"), ("stop_sandbox",)),
    Step("RemovePodSandbox", ("removes containers that are left,", "forgets the pod"), ("remove_sandbox",)),
)
"""The life of a pod of one container. A test plays it, and compares the verbs."""


def pod_svg() -> str:
    """The calls of a pod's life, and the verbs behind each."""
    return card(_WIDTH, 84 + 64 * len(LIFE), _life())


def _life() -> Iterator[str]:
    left, middle, right = 100, 455, 860
    bottom = 70 + 64 * len(LIFE)
    for x, name in ((left, "kubelet"), (middle, "crishim"), (right, "backend")):
        yield f'<line x1="{x}" y1="52" x2="{x}" y2="{bottom}" stroke="#9fa8da" stroke-dasharray="4 3"/>'
        yield from box(x - 80, 16, 160, 36, name)
    for number, step in enumerate(LIFE):
        y = 96 + 64 * number
        if number:
            yield arrow(left, y, middle - 130, y)
        yield words(left + 16, y - 8, step.call, bold=True)
        yield f'<rect x="{middle - 130}" y="{y - 26}" width="260" height="52" rx="8" fill="#ffffff" stroke="#9fa8da"/>'
        for line, text in enumerate(step.does):
            yield words(middle, y + 4 + 17 * line - 8 * (len(step.does) - 1), text, anchor="middle", size=12, fill=GREY)
        yield arrow(middle + 130, y, right, y)
        yield words(right - 16, y - 8, ", ".join(step.verbs), anchor="end", bold=True)
