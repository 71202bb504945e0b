"""What `pytest --crishim-backend module:factory` collects: the exam for that factory's backend.

The factory may carry `exam`, a dictionary of attributes of `BackendConformance`: its programs and known weaknesses.
"""

from crishim.testing.conformance.plugin import chosen_factory
from crishim.testing.conformance.suite import conformance

_factory = chosen_factory()

TestBackend = conformance(_factory, **getattr(_factory, "exam", {}))
