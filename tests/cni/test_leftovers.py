"""Plugins that a killed server left behind."""

import asyncio
import os
import signal
from pathlib import Path

from crishim.cni.invoke import LeftoverPlugins
from crishim.linux.processes import read


async def plugin(script: str, environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "sh", "-c", script, env=environment, start_new_session=True, stdout=asyncio.subprocess.PIPE
    )


async def test_who_is_left_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """A plugin of a server that is dead goes with its whole family, one that has another environment included."""
    left = LeftoverPlugins(tmp_path / "running").noted()
    process = await plugin("env -i sleep 600 & echo $!; wait", left.__enter__())
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    LeftoverPlugins(tmp_path / "running").end()
    assert b"" == (await process.communicate())[0]
    assert -9 == process.returncode
    orphan = read(child)
    assert orphan is None or orphan.ended
    assert [] == list((tmp_path / "running").iterdir())


async def test_what_a_plugin_has_left_running_goes_on(tmp_path: Path) -> None:
    """It has the plugin's environment, and maybe a session of its own, but the plugin has said that it is done."""
    with LeftoverPlugins(tmp_path).noted() as environment:
        process = await plugin("setsid sleep 600 >/dev/null & echo $!", environment)
        assert process.stdout is not None
        daemon = int(await process.stdout.readline())
        await process.communicate()  # until the daemon has left the pipe, too
    LeftoverPlugins(tmp_path).end()
    left = read(daemon)
    assert left is not None
    assert not left.ended
    os.kill(daemon, signal.SIGKILL)


async def test_no_other_process_is_ended(tmp_path: Path) -> None:
    """The plugins of a server with another folder continue; if no note can be written, plugins run nevertheless."""
    (tmp_path / "file").touch()
    with LeftoverPlugins(tmp_path / "other").noted() as environment, LeftoverPlugins(tmp_path / "file" / "x").noted():
        process = await plugin("exec sleep 600", environment)
        LeftoverPlugins(tmp_path / "mine").end()
        left = read(process.pid)
        assert left is not None
        assert not left.ended
        process.kill()
        await process.communicate()
