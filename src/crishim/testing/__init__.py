"""For authors of backends: fakes in memory, composable faults, a harness, a small kubelet, and the conformance suite.

All of it is public: the project's own tests use it.
"""

from crishim.testing.doubles import FakeClock, FakeIds, FakeUrls, MemoryStream
from crishim.testing.fake_programs import FakeInside
from crishim.testing.fakes import FakeBackend, FakeContainer, FakeImages, FakeNamespaces, FakeNetwork, FakeSandbox
from crishim.testing.faults import dropping, failing, hanging
from crishim.testing.harness import Harness
from crishim.testing.served import ServedNode

__all__ = [
    "FakeBackend",
    "FakeClock",
    "FakeContainer",
    "FakeIds",
    "FakeImages",
    "FakeInside",
    "FakeNamespaces",
    "FakeNetwork",
    "FakeSandbox",
    "FakeUrls",
    "Harness",
    "MemoryStream",
    "ServedNode",
    "dropping",
    "failing",
    "hanging",
]
