import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.errors import DataLoss, Unavailable
from crishim.images.content import Content
from crishim.images.manifest import Descriptor
from crishim.images.unpacking import Unpacking, Workers
from crishim.linux.processes import Process, read
from tests.backends.runc.world import needs
from tests.node.registry import File, digest_of, tar_of
from tests.streaming.worlds import until

pytestmark = [pytest.mark.node, needs()]

SERVER = """
import asyncio, sys
from pathlib import Path
from crishim.images.manifest import Descriptor
from crishim.images.unpacking import Workers
asyncio.run(Workers().unpack(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.fixture
def content(tmp_path: Path) -> Iterator[Content]:
    content = Content(tmp_path / "store")
    (content.blobs / "sha256").mkdir()
    yield content
    content.close()


def stored(content: Content, data: bytes) -> str:
    content.blob(digest_of(data)).write_bytes(data)
    return digest_of(data)


def hanging(content: Content, name: str) -> str:
    """A blob that never ends: a named pipe without a writer."""
    digest = digest_of(name.encode())
    os.mkfifo(content.blob(digest))
    return digest


def workers_of(parent: int) -> list[Process]:
    """The workers that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[-3:] == [b"crishim.worker", b"%d" % parent, b""] and (process := read(int(folder.name))):
            found.append(process)
    return [process for process in found if not process.ended]


async def test_a_blob_is_unpacked_once_for_each_taker(content: Content) -> None:
    """What was begun is awaited; another taker of the same digest gets a folder of its own; nothing is left at the end."""
    data = tar_of(File("f", b"x"))
    job = Unpacking(content, Workers())
    digest = stored(content, data)
    job.begin(digest)
    job.begin(digest)
    one, two = await job.take(digest, digest_of(data)), await job.take(digest, digest_of(data))
    assert (True, b"x", b"x") == (one.place != two.place, *((it.place / "fs" / "f").read_bytes() for it in (one, two)))
    with pytest.raises(DataLoss):
        await job.take(digest, digest_of(b"other"))
    assert not content.blob(digest).exists()
    await job.end()
    assert [] == list(content.tmp.iterdir())


async def test_a_worker_that_dies(content: Content) -> None:
    """It is an error of its own pull; another pull's worker continues."""
    workers = Workers()
    one, two = Unpacking(content, workers), Unpacking(content, workers)
    bad, data = hanging(content, "bad"), tar_of(File("f", bytes(1 << 20)))
    one.begin(bad)
    await until(lambda: bool(workers_of(os.getpid())))
    (worker,) = workers_of(os.getpid())
    taking = asyncio.create_task(two.take(stored(content, data), digest_of(data)))
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="signal 9"):
        await one.take(bad, "")
    assert digest_of(data) == (await taking).diff_id
    await one.end()
    await two.end()


async def test_a_worker_serves_several_layers(content: Content) -> None:
    """The layers of a pull share the few workers that the machine can run; one that died while idle is replaced."""
    workers = Workers()
    workers.open()
    seen: set[int] = set()
    for number in range(6):
        await workers.unpack(content.blob(stored(content, tar_of(File(str(number))))), content.tmp / str(number))
        seen.update(process.pid for process in workers_of(os.getpid()))
    assert 1 == len(seen)
    for pid in seen:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: all(worker.ended for worker in workers._idle))
    await workers.unpack(content.blob(stored(content, tar_of(File("more")))), content.tmp / "more")
    (after,) = workers_of(os.getpid())
    assert after.pid not in seen
    await workers.close()
    assert [] == workers_of(os.getpid())


async def test_the_last_pull_ends_the_workers(content: Content) -> None:
    """The end of one pull leaves another's workers alone; an unpacking outside of pulls leaves none."""
    workers, data = Workers(), tar_of(File("f"))
    digest = stored(content, data)
    one, two = Unpacking(content, workers), Unpacking(content, workers)
    await one.take(digest, digest_of(data))
    await two.take(digest, digest_of(data))
    await one.end()
    assert 1 == len(workers_of(os.getpid()))
    await two.end()
    assert [] == workers_of(os.getpid())
    await workers.unpack(content.blob(digest), content.tmp / "place")
    assert [] == workers_of(os.getpid())


async def test_workers_start_while_layers_are_downloaded(content: Content) -> None:
    """Workers that a pull expects to need serve its layers; without a layer to come none is started."""
    blobs = [Descriptor(f"sha256:{number}", 1) for number in range(3)]
    job, data = Unpacking(content, Workers()), tar_of(File("f"))
    job.expect(blobs[:1])
    job.expect(blobs)
    await until(lambda: 2 == len(workers_of(os.getpid())))
    before = {worker.pid for worker in workers_of(os.getpid())}
    await job.take(stored(content, data), digest_of(data))
    assert before == {worker.pid for worker in workers_of(os.getpid())}
    await job.end()
    assert [] == workers_of(os.getpid())


async def test_a_pull_that_is_given_up_leaves_no_worker(content: Content) -> None:
    """The end of a pull is the end of its workers, also of those that are about to start."""
    job = Unpacking(content, Workers())
    for number in range(8):
        job.begin(hanging(content, str(number)))
    await until(lambda: bool(workers_of(os.getpid())))
    await job.end()
    assert ([], []) == (workers_of(os.getpid()), list(content.tmp.iterdir()))


async def test_a_server_that_is_killed_leaves_no_worker(content: Content) -> None:
    """Workers end with their server, however it ends."""
    path, place = content.blob(hanging(content, "x")), content.tmp / "place"
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(path), str(place))
    await until((place / "fs").exists)
    assert 1 == len(workers_of(server.pid))
    server.kill()
    assert -signal.SIGKILL == await server.wait()
    await until(lambda: not workers_of(server.pid))
