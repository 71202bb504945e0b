import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "crishim"
SCRIPT = r"""
import asyncio
from google.protobuf.any_pb2 import Any
from crishim.cri import Dispatcher
from crishim.errors import CrishimError
from crishim.shimv2.server.options import start_options
from crishim.shimv2.wire.messages import parse_bootstrap
from crishim.shimv2.wire.metrics import decode_metrics
from crishim.testing import Harness
from crishim.ttrpc.connection import ServerConnection
from crishim.ttrpc.frames import Flag, Kind, encode

async def dispatch():
    async with Harness() as world:
        await Dispatcher(world.services).call("Version", b"\x0a\x01\xff")

def code(work):
    try:
        work()
    except CrishimError as error:
        return error.code.name

server = ServerConnection()
events = server.receive(encode(1, Kind.REQUEST, Flag.REMOTE_CLOSED, b"\x0a\x01\xff"))
print(code(lambda: asyncio.run(dispatch())))
print(events, b"an invalid request" in server.to_send())
print(code(lambda: parse_bootstrap(b"\x08\x02\x12\x01\xff")))
print(decode_metrics(Any(type_url="io.containerd.cgroups.v2.Metrics", value=b"\x3a\x03\x1a\x01\xff")).cpu)
print(start_options(b"\x0a\x01\xff"))
"""


@pytest.mark.parametrize("implementation", [{}, {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}])
def test_a_string_that_is_not_utf_8(implementation: dict[str, str]) -> None:
    """It is refused as bytes that cannot be decoded, by each implementation of protobuf, and connections stay open."""
    environment = {**os.environ, **implementation}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert "INVALID_ARGUMENT\n[] True\nUNKNOWN\nNone\n('', b'')\n" == done.stdout, done.stderr


def test_no_file_names_the_error_of_one_implementation() -> None:
    """What is caught is the error of every implementation."""
    alone = [path.name for path in SRC.rglob("*.py") if re.search(r"\bDecodeError\b", path.read_text(encoding="utf-8"))]
    assert ["__init__.py"] == alone
