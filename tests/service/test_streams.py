"""ExecSync, Exec, Attach, PortForward."""

import asyncio

import attrs
import pytest

from crishim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Unavailable, Unimplemented
from crishim.interfaces.capabilities import ProcessIO
from crishim.model.process import AttachRequest, ExecRequest, ExecSpec, PortForwardRequest
from crishim.service.streams import Budget, Buffer
from crishim.testing import FakeBackend, Harness, hanging
from crishim.testing.doubles import settle


async def test_exec_sync_answers_both_streams_and_the_code() -> None:
    """A non-zero exit is an answer, not an error (rpc.md 5, ExecSync)."""
    async with Harness() as world:
        container_id = await world.run_container(await world.run_sandbox())
        run = world.services.streams.exec_sync
        done = await run(container_id, ("print", "hi"), 0)
        assert (b"hi\n", b"", 0) == (done.stdout, done.stderr, done.exit_code)
        assert b"oh\n" == (await run(container_id, ("complain", "oh"), 5)).stderr
        assert 9 == (await run(container_id, ("fail", "9"), 5)).exit_code


async def test_exec_sync_runs_out_of_time() -> None:
    """ExecSync past its timeout is DeadlineExceeded: probes depend on that code (rpc.md 3)."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(hanging(fake, "exec"))
    world.fake = fake
    async with world:
        container_id = await world.run_container(await world.run_sandbox())
        with pytest.raises(DeadlineExceeded, match="timed out"):
            await world.services.streams.exec_sync(container_id, ("sleep",), 1)


async def test_exec_sync_does_not_hold_up_recovery() -> None:
    """A backend that was lost and is back is recovered while an ExecSync still has its time."""
    fake = FakeBackend(logs_to_disk=False)
    world = Harness(hanging(fake, "exec"))
    world.fake = fake
    async with world:
        container_id = await world.run_container(await world.run_sandbox())
        patient = asyncio.ensure_future(world.services.streams.exec_sync(container_id, ("sleep",), 600))
        await settle()
        fake.away = "restarting"
        with pytest.raises(Unavailable):
            await world.run_sandbox("early")
        fake.away = ""
        await world.clock.advance(60)
        assert await world.run_sandbox("late")
        patient.cancel()
        await asyncio.wait({patient})


async def test_exec_needs_a_running_container() -> None:
    """Exec and Attach need RUNNING; an unknown id is NotFound (rpc.md 3, 5)."""
    async with Harness() as world:
        container_id = await world.create_container(await world.run_sandbox())
        with pytest.raises(FailedPrecondition):
            await world.services.streams.exec_sync(container_id, ("x",), 0)
        with pytest.raises(FailedPrecondition):
            await world.services.streams.exec(ExecRequest(container_id=container_id, cmd=("x",), stdout=True))
        with pytest.raises(NotFound):
            await world.services.streams.attach(AttachRequest(container_id=world.ids.container_id(), stdout=True))


async def test_two_buffers_share_one_budget() -> None:
    """The two streams of ExecSync together stay below one message; the rest is discarded while the command runs on."""
    budget = Budget(10)
    out, err = Buffer(budget), Buffer(budget)
    await out.write(b"123456")
    await err.write(b"abcdef")
    await out.write(b"7")
    assert (b"123456", b"abcd") == (out.content(), err.content())


async def test_large_output_is_capped() -> None:
    """Output beyond the limit is cut and the exit code still returned."""
    world = Harness()
    world.settings = attrs.evolve(world.settings, exec_sync_limit=3)
    async with world:
        container_id = await world.run_container(await world.run_sandbox())
        done = await world.services.streams.exec_sync(container_id, ("print", "long text"), 0)
        assert (b"lon", 0) == (done.stdout, done.exit_code)


async def test_urls_are_minted_for_what_was_checked() -> None:
    """Exec, Attach and PortForward answer a URL for exactly the request that was checked."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
        processes = world.services.streams
        exec_wish = ExecRequest(container_id=container_id, cmd=("sh",), tty=True, stdin=True, stdout=True)
        attach_wish = AttachRequest(container_id=container_id, stdout=True)
        forward_wish = PortForwardRequest(pod_sandbox_id=sandbox_id, port=(80,))
        assert exec_wish == world.urls.requests[await processes.exec(exec_wish)]
        assert attach_wish == world.urls.requests[await processes.attach(attach_wish)]
        assert forward_wish == world.urls.requests[await processes.port_forward(forward_wish)]
        with pytest.raises(InvalidArgument, match="tty"):
            await processes.attach(AttachRequest(container_id=container_id, tty=True, stdout=True))


async def test_no_streaming_without_urls() -> None:
    """Without a streaming server Exec is Unimplemented, and says which extra brings one."""
    async with Harness(urls=None) as world:
        container_id = await world.run_container(await world.run_sandbox())
        with pytest.raises(Unimplemented, match="extra `streaming`"):
            await world.services.streams.exec(ExecRequest(container_id=container_id, cmd=("sh",), stdout=True))


async def test_streams_reach_the_backend() -> None:
    """What the streaming server brings goes to the backend's exec and dial."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id)
        assert 3 == (await world.services.streams.run_exec(container_id, ExecSpec(argv=("fail", "3")), ProcessIO())).code
        stream = await world.services.streams.dial(sandbox_id, 80)
        await stream.write(b"ping")
        assert b"ping" == await stream.read()
        await stream.close()
        await settle()
