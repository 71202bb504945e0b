import pytest
from prometheus_client import generate_latest

from crishim.cri import Dispatcher, pb
from crishim.errors import Code, NotFound, Unknown
from crishim.metrics.prometheus import Metrics
from crishim.model.image import ImageSpec
from crishim.testing import FakeBackend, Harness, failing
from crishim.testing.doubles import RecordingObserver
from crishim.testing.fakes import FakeImages


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample as its line has it."""
    lines = generate_latest(metrics).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


async def test_calls_verbs_and_states_are_counted() -> None:
    """RPCs count by method and code, verbs by backend, verb and code, pods and containers by state."""
    metrics = Metrics("1.2.3")
    world = Harness(observer=metrics)
    async with world:
        metrics.attend(world.services.gauges, None)
        dispatch = Dispatcher(world.services, metrics.call_ended)
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id, "main", "sleep")
        await dispatch(pb.VersionRequest())
        with pytest.raises(NotFound):
            await dispatch(pb.ContainerStatusRequest(container_id="none"))
        seen = values(metrics)
    assert {
        'crishim_rpcs_total{code="OK",method="Version"}': 1.0,
        'crishim_rpcs_total{code="NOT_FOUND",method="ContainerStatus"}': 1.0,
        'crishim_rpc_duration_seconds_count{method="Version"}': 1.0,
        'crishim_backend_calls_total{backend="fake",code="OK",verb="start_sandbox"}': 1.0,
        'crishim_backend_calls_total{backend="fake",code="OK",verb="start_container"}': 1.0,
        'crishim_sandboxes{state="ready"}': 1.0,
        'crishim_sandboxes{state="notready"}': 0.0,
        'crishim_containers{state="running"}': 1.0,
        'crishim_containers{state="unknown"}': 0.0,
        'crishim_backend_up{backend="fake"}': 1.0,
        'crishim_build_info{version="1.2.3"}': 1.0,
    }.items() <= seen.items()
    assert [] == [name for name in seen if "_created" in name or "wait_container" in name]


async def test_a_failed_verb_is_counted_with_its_code() -> None:
    """A verb that raises is counted by the code of its error; what a backend must not raise is UNKNOWN."""
    observer = RecordingObserver()
    backend = failing(FakeBackend(logs_to_disk=False), "start_sandbox", error=RuntimeError("bug"))
    async with Harness(backend, observer=observer) as world:
        with pytest.raises(Unknown):
            await world.run_sandbox()
    assert ("verb_ended", "fake", "start_sandbox", Code.UNKNOWN) in observer.calls


async def test_pulls_are_counted() -> None:
    """Each PullImage is counted with its code, whatever the image service is."""
    observer = RecordingObserver()
    images = FakeImages()
    async with Harness(images=images, observer=observer) as world:
        await world.services.images.pull(ImageSpec(image="registry.example/new:1"), None, None)
    assert [("pull_ended", Code.OK)] == [call for call in observer.calls if call[0] == "pull_ended"]


async def test_repairs_are_reported() -> None:
    """The removal of a container without a record is reported as a repair, by its kind."""
    observer = RecordingObserver()
    world = Harness(observer=observer)
    async with world:
        await world.run_container(await world.run_sandbox(), "main", "sleep")
    async with world:  # the records were in memory only
        pass
    assert {("repaired", "RemoveLeftoverContainer"), ("repaired", "RemoveLeftoverSandbox")} == {
        call for call in observer.calls if call[0] == "repaired"
    }
