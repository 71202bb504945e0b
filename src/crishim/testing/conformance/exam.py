"""The tests that `pytest --crishim-backend package.module:plugin` collects: the suite for that plug-in's backend.

`Plugin.exam` has the attributes of `BackendConformance`: its programs and known weaknesses.
"""

import pytest

from crishim.testing.conformance.plugin import chosen_plugin
from crishim.testing.conformance.suite import conformance

_plugin = chosen_plugin()

try:
    TestBackend = conformance(_plugin.build, **_plugin.exam)
except TypeError as error:
    raise pytest.UsageError(f"exam: {error}") from error
