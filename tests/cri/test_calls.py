"""The type of a response, as type checkers see it."""

import subprocess
import sys
from pathlib import Path

from crishim.cri.routes import Unary, routes

PROGRAM = """
from collections.abc import AsyncIterator
from typing import Any, assert_type

from google.protobuf.message import Message

from crishim.cri import Dispatcher, pb


async def main(dispatch: Dispatcher, other: Message) -> None:
    assert_type(await dispatch(other), Any)
    assert_type(dispatch.messages(other), AsyncIterator[Any])
"""


def test_each_response_has_its_type(tmp_path: Path) -> None:
    """Mypy knows the response to each of the requests, and to one of other stubs that it is anything."""
    lines = []
    for row in routes().values():
        service = row.request.DESCRIPTOR.file.services_by_name[row.service.rpartition(".")[2]]
        request, response = row.request.DESCRIPTOR.name, service.methods_by_name[row.name].output_type.name
        expected = f"pb.{response}" if isinstance(row, Unary) else f"AsyncIterator[pb.{response}]"
        call = f"await dispatch(pb.{request}())" if isinstance(row, Unary) else f"dispatch.messages(pb.{request}())"
        lines.append(f"    assert_type({call}, {expected})")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (43, 0) == (len(lines), done.returncode), done.stdout + done.stderr
