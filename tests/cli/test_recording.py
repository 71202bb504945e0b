"""`crishim record` and `crishim replay` as programs."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from crishim.cli.main import main
from crishim.cri import Dispatcher
from crishim.play import connect
from crishim.server import serve
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config, sandbox_config

PLUGIN = "crishim.testing.fakes:plugin"


async def test_a_recording_is_written_and_replayed(tmp_path: Path) -> None:
    """The proxy appends to a file of mode 0600 until it is interrupted; the file plays against a backend of a plug-in."""
    out = tmp_path / "calls.jsonl"
    async with Harness() as world, serve(Dispatcher(world.services), tmp_path / "runtime.sock"):
        words = ("record", str(out), "--listen", str(tmp_path / "proxy.sock"), "--endpoint", str(tmp_path / "runtime.sock"))
        proxy = await asyncio.create_subprocess_exec(sys.executable, "-m", "crishim", *words)
        try:
            await until((tmp_path / "proxy.sock").exists)
            async with connect(f"unix://{tmp_path}/proxy.sock") as client:
                sandbox = sandbox_config("pod")
                pod = await client.run_sandbox(sandbox)
                container = await client.create_container(pod, container_config("main", "sleep"), sandbox)
                await client.start_container(container)
                await client.container_status(container)
        finally:
            proxy.send_signal(signal.SIGINT)
            assert 0 == await proxy.wait()
    assert 0o600 == out.stat().st_mode & 0o777
    lines = out.read_text().splitlines()
    assert ["RunPodSandbox", "CreateContainer", "StartContainer", "ContainerStatus"] == [
        json.loads(line)["method"] for line in lines
    ]
    replayed = await asyncio.to_thread(CliRunner().invoke, main, ["replay", str(out), "--backend", PLUGIN])
    assert (0, "4 calls, 0 differences\n") == (replayed.exit_code, replayed.output)
    changed = json.loads(lines[-1])
    changed["reply"]["status"]["metadata"]["name"] = "other"
    out.write_text("\n".join((*lines[:-1], json.dumps(changed))))
    replayed = await asyncio.to_thread(CliRunner().invoke, main, ["replay", str(out), "--backend", PLUGIN])
    assert 1 == replayed.exit_code
    assert 'recorded {"name": "other"}, now {"name": "main"}' in replayed.output


@pytest.mark.parametrize("words", [[], ["--endpoint", "unix:///x", "--backend", PLUGIN]])
def test_one_target(tmp_path: Path, words: list[str]) -> None:
    """A recording is played against one runtime or one backend."""
    (tmp_path / "calls.jsonl").write_text("")
    done = CliRunner().invoke(main, ["replay", str(tmp_path / "calls.jsonl"), *words])
    assert (2, True) == (done.exit_code, "either --endpoint or --backend" in done.output)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """A file that is no recording is named with its line."""
    (tmp_path / "calls.jsonl").write_text("nonsense\n")
    done = CliRunner().invoke(main, ["replay", str(tmp_path / "calls.jsonl"), "--endpoint", f"unix://{tmp_path}/none.sock"])
    assert (2, True) == (done.exit_code, "line 1: " in done.output)
