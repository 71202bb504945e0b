"""A small kubelet: converts a v1 Pod manifest to CRI requests as the real one does, and runs it on any CRI endpoint.

    file = load(text)
    pod = parse(file.pods[0], uid="...", seen="2026-01-01T00:00:00Z", objects=file.objects)
    async with connect("unix:///run/crishim/crishim.sock") as client:
        outcome = await Player(client, Node(), clock, report=print).play(pod)

It supports init containers and sidecars with their order at the end, restart policies with back-off, probes by exec, HTTP, TCP
and gRPC, hooks by exec, HTTP and sleep, environment, ConfigMaps and Secrets of the same file and downward fields, emptyDir,
hostPath, configMap, secret and downwardAPI volumes, resources by QoS class, security contexts, runtime classes, host aliases
and termination messages. Any other field of a manifest is refused by name.
"""

from crishim.play.client import CallError, CriClient, connect, direct
from crishim.play.configs import Node
from crishim.play.events import Event, EventKind, Outcome, PodPhase
from crishim.play.manifest import parse
from crishim.play.objects import Loaded, Objects, load
from crishim.play.player import Player
from crishim.play.pod import Pod
from crishim.play.stopping import take_down

__all__ = [
    "CallError",
    "CriClient",
    "Event",
    "EventKind",
    "Loaded",
    "Node",
    "Objects",
    "Outcome",
    "Player",
    "Pod",
    "PodPhase",
    "connect",
    "direct",
    "load",
    "parse",
    "take_down",
]
