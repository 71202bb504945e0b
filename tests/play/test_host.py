import asyncio
from pathlib import Path

from crishim.linux.cgroups import Cgroups
from crishim.model.sandbox import DNSConfig
from crishim.play.host import memory_total, pod_cgroups, resolver, this_node
from crishim.play.log_tailer import PodLogFollower
from crishim.system import SystemClock
from crishim.testing import FakeClock
from crishim.testing.doubles import settle


def test_a_resolv_conf_is_read() -> None:
    """Servers and options add up, the last search line counts, and the rest is passed over."""
    text = "# c\nsearch a\nnameserver 192.0.2.1\nnameserver\nsearch b c\noptions ndots:5 edns0\nnameserver 2001:db8::1\n"
    expected = DNSConfig(servers=("192.0.2.1", "2001:db8::1"), searches=("b", "c"), options=("ndots:5", "edns0"))
    assert expected == resolver(text)
    assert DNSConfig() == resolver("")


def test_this_machine_is_a_node(tmp_path: Path) -> None:
    """A node has a name, memory, and its folders below the one given."""
    assert 2048 == memory_total("MemTotal:       2 kB\nMemFree: 1 kB\n")
    node = this_node(tmp_path)
    assert (str(tmp_path / "kubelet"), str(tmp_path / "logs"), "cgroupfs") == (node.root, node.logs, node.cgroups)
    assert node.name
    assert node.memory > 0


async def test_the_cgroups_of_pods_are_removed(tmp_path: Path) -> None:
    """The cgroups of pods, and those above them that did not exist before, are removed; what is in use or older is left."""
    (tmp_path / "older").mkdir()
    cgroups = Cgroups(v2=True, root=tmp_path)
    async with pod_cgroups(["/older/own", "/made/own", "/made/busy", "/alone/own", ""], cgroups):
        for name in ("older/own", "older/other", "made/own", "made/busy/inside", "alone/own"):
            (tmp_path / name).mkdir(parents=True)
    assert {"older", "older/other", "made", "made/busy", "made/busy/inside"} == folders(tmp_path)


def folders(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*/")}


async def test_a_log_is_followed_to_its_end(tmp_path: Path) -> None:
    """Lines are read as they are written, parts are joined by stream, and lines after the exit are still read."""
    path = tmp_path / "0.log"
    clock = FakeClock()
    tail = PodLogFollower(path, clock)
    seen: list[tuple[str, str]] = []

    async def read() -> None:
        async for stream, text in tail.lines():
            seen.append((stream, text))

    reading = asyncio.create_task(read())
    await settle()
    head = "2026-01-01T00:00:00Z"
    write(path, f"{head} stdout F one\n{head} stdout P be\n{head} stderr F error\n{head} std")
    await clock.advance(1)
    assert [("stdout", "one"), ("stderr", "error")] == seen
    write(path, f"out F gin\nnonsense\n{head} stdout P open")
    write(path, "\n")
    tail.end()
    await reading
    assert [("stdout", "begin"), ("stderr", "nonsense"), ("stdout", "open")] == seen[2:]


async def test_a_log_that_is_gone_is_still_read(tmp_path: Path) -> None:
    """A log that was there at first may be removed; one that never appears has no lines."""
    path = tmp_path / "0.log"
    write(path, "2026-01-01T00:00:00Z stdout F one\n")
    there, never = PodLogFollower(path, SystemClock()), PodLogFollower(tmp_path / "1.log", SystemClock())
    path.unlink()
    for tail, expected in ((there, [("stdout", "one")]), (never, [])):
        tail.end()
        assert expected == [line async for line in tail.lines()]


def write(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
