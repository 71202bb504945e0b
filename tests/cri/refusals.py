from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crishim.errors import InvalidArgument


@contextmanager
def refused(field: str) -> Iterator[None]:
    """What stands in the block raises `InvalidArgument` for exactly this field."""
    with pytest.raises(InvalidArgument) as caught:
        yield
    assert field == caught.value.field
