"""A small kubelet: turns a v1 Pod manifest into CRI requests as the real one does, and drives any CRI endpoint with them.

    pod = parse(load(text), uid="...", seen="2026-01-01T00:00:00Z")
    async with connect("unix:///run/crishim/crishim.sock") as client:
        outcome = await Player(client, Node(), clock, report=print).play(pod)

It knows init containers and sidecars, restart policies with back-off, exec probes and hooks, environment and downward fields,
emptyDir, hostPath and downwardAPI volumes, resources by QoS class, security contexts and termination messages. What it does
not know in a manifest it names and refuses.
"""

from crishim.testing.kubelet.client import CallError, CriClient, connect, direct
from crishim.testing.kubelet.configs import Node
from crishim.testing.kubelet.events import Event, EventKind, Outcome, Phase
from crishim.testing.kubelet.manifest import load, parse
from crishim.testing.kubelet.player import Player
from crishim.testing.kubelet.pod import Pod

__all__ = [
    "CallError",
    "CriClient",
    "Event",
    "EventKind",
    "Node",
    "Outcome",
    "Phase",
    "Player",
    "Pod",
    "connect",
    "direct",
    "load",
    "parse",
]
