import importlib
import inspect
import pkgutil

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crishim.model
from tests.strategies import of


def model_classes() -> list[type]:
    """Every attrs class that a module of the model defines."""
    found = []
    for info in pkgutil.iter_modules(crishim.model.__path__, "crishim.model."):
        module = importlib.import_module(info.name)
        classes = (member for _, member in inspect.getmembers(module, inspect.isclass))
        found += [member for member in classes if member.__module__ == info.name and attrs.has(member)]
    return found


@pytest.mark.parametrize("kind", model_classes(), ids=lambda kind: kind.__name__)
@settings(max_examples=5)
@given(data=st.data())
def test_every_model_class_has_a_strategy(kind: type, data: st.DataObject) -> None:
    """For each class of the model values are drawn, hashable and equal to a copy of themselves."""
    value = data.draw(of(kind))
    copy = attrs.evolve(value)
    assert value == copy
    assert hash(value) == hash(copy)
