"""The unit of examples/ under systemd: started, restarted, killed and hung, with pods that go on."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.cri import pb
from crishim.linux.cgroups import own_folder
from crishim.play import CriClient
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs
from tests.guest.world import UNIT, UnitNode, in_guest, systemctl
from tests.node.world import TOOLS, real_plugins

pytestmark = [pytest.mark.node, needs(*TOOLS, "crun"), real_plugins(), in_guest()]


@pytest.fixture(params=["runc", "crun"])
def unit(image: str, request: pytest.FixtureRequest) -> Iterator[UnitNode]:
    place = Path(tempfile.mkdtemp(prefix="unit"))
    place.chmod(0o711)
    node = UnitNode(place, image, request.param)
    node.install()
    try:
        yield node
    finally:
        node.close()
        shutil.rmtree(place, ignore_errors=True)


async def runs(client: CriClient, containers: list[str]) -> bool:
    """Whether containers run, and take execs."""
    states = [(await client.container_status(container)).state for container in containers]
    codes = [(await client.exec_sync(container, ("true",))).exit_code for container in containers]
    return states == [pb.CONTAINER_RUNNING] * len(containers) and not any(codes)


def test_it_serves_when_it_is_started(unit: UnitNode) -> None:
    """`systemctl start` returns when calls are answered, with the unit's own settings at work."""
    unit.start()
    assert (unit.place / "cri.sock").exists()
    assert "active" == systemctl("is-active", UNIT.name)
    assert "-999" == Path(f"/proc/{unit.main()}/oom_score_adj").read_text().strip()
    assert "/system.slice/crishim.service" == own_folder(Path(f"/proc/{unit.main()}/cgroup").read_text(), "", v2=True)


def test_its_log_is_the_journal(unit: UnitNode) -> None:
    """What the server logs has its priority in the journal, and no time of its own in front."""
    unit.start()
    command = ["journalctl", "--unit", UNIT.name, "--output=json", f"_PID={unit.main()}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    expected = ("6", f"crishim.server: serving CRI on {unit.place}/cri.sock")
    assert expected in {(entry["PRIORITY"], entry["MESSAGE"]) for entry in entries}


@pytest.mark.parametrize("way", ["restart", "kill", "stop"])
async def test_pods_go_on(unit: UnitNode, way: str) -> None:
    """Whatever ends the service, pods of before go on beside newer ones, and the removal of all leaves nothing."""
    unit.start()
    async with unit.client() as client:
        await unit.pull(client)
        older = await unit.make_pod(client, "older")
    before = unit.main()
    if way == "restart":
        systemctl("restart", UNIT.name)
    elif way == "kill":
        systemctl("kill", "--signal=KILL", UNIT.name)  # each process of its cgroup
        await until(lambda: unit.main() not in {0, before})
    else:
        systemctl("stop", UNIT.name)
        unit.start()
    async with unit.client() as client:
        newer = await unit.make_pod(client, "newer")
        assert await runs(client, [*older[1:], *newer[1:]])
        await client.stop_container(older[1], 0)
        assert 137 == (await client.container_status(older[1])).exit_code
        await unit.empty(client)
    assert set() == unit.traces()


async def test_a_hung_server_is_replaced(unit: UnitNode) -> None:
    """A server that does not answer systemd's watchdog is killed and started anew; its pods go on."""
    override = UNIT.with_name(f"{UNIT.name}.d") / "watchdog.conf"
    override.parent.mkdir()
    override.write_text("[Service]\nWatchdogSec=3\n")
    systemctl("daemon-reload")
    unit.start()
    async with unit.client() as client:
        await unit.pull(client)
        pod = await unit.make_pod(client, "pod")
    hung = unit.main()
    os.kill(hung, signal.SIGSTOP)
    await until(lambda: unit.main() not in {0, hung})
    async with unit.client() as client:
        assert await runs(client, pod[1:])
        await unit.empty(client)
    assert set() == unit.traces()
