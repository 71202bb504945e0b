"""`crishim record`: a proxy that writes the CRI calls of a node as lines of JSON."""

import asyncio
import contextlib
import json
import signal
from pathlib import Path

import click

from crishim.cli.options import exit_on_error
from crishim.recording.lines import RecordedCall, to_line
from crishim.recording.recorder import recording


@click.command(name="record")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--listen", required=True, type=click.Path(path_type=Path), help="The socket to serve; the kubelet's endpoint.")
@click.option("--endpoint", required=True, help="The runtime to pass calls on to, as unix:///path/to.sock.")
@click.option("--keep-env", is_flag=True, help="Keep the values of environment variables, which are redacted otherwise.")
def command(out: Path, listen: Path, endpoint: str, *, keep_env: bool) -> None:
    """Serve CRI by another runtime, and append each call to the file OUT, until interrupted.

    Credentials and the URLs of streams are redacted. The file may be played with `crishim replay`, and belongs into a bug
    report.
    """
    with exit_on_error():
        asyncio.run(_record(out, listen, endpoint if ":" in endpoint else f"unix://{endpoint}", keep_env=keep_env))


async def _record(out: Path, listen: Path, endpoint: str, *, keep_env: bool) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    with contextlib.closing(out.open("a", encoding="utf-8")) as file:
        out.chmod(0o600)  # noqa: ASYNC240 - before anything is served

        def write(call: RecordedCall) -> None:
            file.write(json.dumps(to_line(call, keep_env=keep_env)) + "\n")
            file.flush()

        async with recording(listen, endpoint, write):
            click.echo(f"recording {endpoint} at {listen}", err=True)
            await ended.wait()
