"""The tests that `pytest --crishim-backend package.module:plugin` collects: the suite for that plug-in's backend.

`Plugin.exam` has the attributes of `BackendConformance`: its programs and known weaknesses.
"""

import pytest

from crishim.testing.conformance.plugin import chosen_plugin
from crishim.testing.conformance.suite import exam

try:
    TestBackend = exam(chosen_plugin())
except TypeError as error:
    raise pytest.UsageError(f"exam: {error}") from error
