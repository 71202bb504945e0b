"""For authors: a pod world in memory, faults that compose, fake seams, a harness, a small kubelet, and the exam for backends.

All of it is product: what the project tests itself with is what it hands to others.
"""

from crishim.testing.doubles import FakeClock, FakeIds, FakeUrls, MemoryStream
from crishim.testing.fakes import FakeBackend, FakeImages, FakeNamespaces, FakeNetwork
from crishim.testing.faults import dropping, failing, hanging
from crishim.testing.harness import Harness

__all__ = [
    "FakeBackend",
    "FakeClock",
    "FakeIds",
    "FakeImages",
    "FakeNamespaces",
    "FakeNetwork",
    "FakeUrls",
    "Harness",
    "MemoryStream",
    "dropping",
    "failing",
    "hanging",
]
