"""The page of specs and events has every field, with what it means and an example."""

from typing import Any

import attrs
import pytest

from crishim.model.container import ContainerSpec, Inventory
from crishim.model.process import ExecSpec, Exit
from crishim.model.runtime import ContainerEvent
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.stats import ContainerUsage, SandboxUsage
from docs.tools import examples, specs
from docs.tools.public import api

FOUND: dict[type, list[Any]] = {}
for _, values in examples.EXAMPLES.values():
    for each, found in specs.instances(values).items():
        FOUND.setdefault(each, []).extend(found)


@pytest.mark.parametrize("kind", FOUND, ids=lambda kind: kind.__name__)
def test_every_field_is_described(kind: type) -> None:
    """Each field has a docstring, and an example that is not empty."""
    (name,) = [name for name in api().names() if name.home == f"{kind.__module__}.{kind.__name__}"]
    about = {member.short: member.about for member in name.members}
    fields = [field.name for field in attrs.fields(kind)]
    assert [] == [field for field in fields if not about[field]]
    assert [] == [field for field in fields if specs.example(field, FOUND[kind]) is None]


def test_every_class_is_on_the_page() -> None:
    """What a backend receives and reports, and the events, stand on the page with all their parts, each once."""
    page = "\n".join(specs.page())
    wanted = {
        ContainerSpec,
        SandboxSpec,
        ExecSpec,
        Exit,
        SandboxStarted,
        Inventory,
        ContainerUsage,
        SandboxUsage,
        ContainerEvent,
    }
    assert set() == wanted - FOUND.keys()
    assert [] == [kind.__name__ for kind in FOUND if page.count(f"\n### {kind.__name__}\n") != 1]
    rows = sum(len(attrs.fields(kind)) for kind in FOUND)
    assert rows == page.count("\n| `")
