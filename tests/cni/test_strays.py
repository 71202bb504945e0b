"""Plugins that a killed server left behind."""

import asyncio
import os
import signal
from pathlib import Path

from crishim.cni.strays import Strays
from crishim.proc import read


async def plugin(script: str, strays: Strays) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "sh", "-c", script, env=strays.environment(), start_new_session=True, stdout=asyncio.subprocess.PIPE
    )


async def test_who_is_left_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """A plugin of a server that is dead goes with its whole family, one that has another environment included."""
    process = await plugin("env -i sleep 600 & echo $!; wait", Strays(tmp_path))
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    Strays(tmp_path).end()
    assert -9 == await process.wait()
    left = read(child)
    assert left is None or left.ended


async def test_a_daemon_that_a_plugin_has_left_goes_on(tmp_path: Path) -> None:
    """It has the plugin's environment, but no session of its own (daemon(7), step 7: the leader has gone)."""
    process = await plugin("sleep 600 >/dev/null & echo $!", Strays(tmp_path))
    assert process.stdout is not None
    daemon = int(await process.stdout.readline())
    await process.wait()
    Strays(tmp_path).end()
    left = read(daemon)
    assert left is not None
    assert not left.ended
    os.kill(daemon, signal.SIGKILL)


async def test_nobody_else_is_ended(tmp_path: Path) -> None:
    """The plugins of a server with another folder go on, also where one name begins with the other."""
    process = await plugin("exec sleep 600", Strays(tmp_path / "cni-of-another"))
    Strays(tmp_path / "cni").end()
    assert process.returncode is None
    assert read(process.pid) is not None
    process.kill()
    await process.wait()
