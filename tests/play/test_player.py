import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from crishim.cri import Call, Dispatcher, pb
from crishim.errors import Code
from crishim.model.process import Exit
from crishim.model.sandbox import DNSConfig
from crishim.play import (
    CallError,
    CriClient,
    Event,
    EventKind,
    Node,
    Outcome,
    Player,
    PodPhase,
    direct,
    parse,
)
from crishim.testing import Harness
from crishim.testing.harness import IMAGE

GOLDEN = Path(__file__).parents[1] / "golden"
SEEN = "2026-01-01T00:00:00Z"
SLOW_READS = {"ListContainers", "ContainerStatus"}


def manifest(*containers: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    filled = [{"image": IMAGE, **container} for container in containers]
    spec["initContainers"] = [{"image": IMAGE, **container} for container in spec.get("initContainers", [])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"containers": filled, "restartPolicy": "Never", **spec},
    }


def exec_probe(*command: str, **times: int) -> dict[str, Any]:
    return {"exec": {"command": list(command)}, **times}


@attrs.define
class Stage:
    """A world of fakes, the calls that reached it, and the player's events, each with the second in which it happened."""

    world: Harness
    folder: Path
    calls: list[Call]
    events: list[tuple[float, Event]]

    def player(self, **node: Any) -> Player:
        client = CriClient(direct(Dispatcher(self.world.services, self.calls.append)))
        place = Node(root=str(self.folder / "kubelet"), logs=str(self.folder / "logs"), **node)
        tokens = iter(f"{number:08x}" for number in range(100))
        return Player(client, place, self.world.clock, report=self.note, tokens=lambda: next(tokens))

    def note(self, event: Event) -> None:
        self.events.append((self.world.clock.monotonic(), event))

    async def play(self, pod: Mapping[str, Any]) -> Outcome:
        return await self.finish(asyncio.create_task(self.player().play(parse(pod, uid="uid-1", seen=SEEN))))

    async def finish(self, task: asyncio.Task[Outcome]) -> Outcome:
        while not task.done():
            await self.world.clock.advance(1)
        return task.result()

    async def until(self, kind: EventKind, container: str = "") -> None:
        while not any(event.kind is kind and event.container == container for _, event in self.events):
            await self.world.clock.advance(1)

    def events_of(self, *kinds: EventKind) -> list[tuple[float, str, str]]:
        return [(at, event.container, event.text) for at, event in self.events if event.kind in kinds]

    def methods(self) -> list[str]:
        return [call.method for call in self.calls if call.method not in SLOW_READS]

    def left(self) -> list[object]:
        fake = self.world.fake
        return [*fake.sandboxes, *fake.containers, *self.world.network.addresses, *self.world.namespaces.paths]

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Harness() as world:
        yield Stage(world, tmp_path, [], [])


async def test_a_pod_is_played_in_the_kubelets_order(stage: Stage) -> None:
    """Init containers run one after the other before the containers, and the way back is the kubelet's."""
    outcome = await stage.play(
        manifest(
            {"name": "one", "command": ["print", "hello"]},
            {"name": "two", "command": ["print", "hello"]},
            initContainers=[{"name": "first", "command": ["print", "1"]}, {"name": "second", "command": ["print", "2"]}],
        )
    )
    expected = Outcome(phase=PodPhase.SUCCEEDED, code=0, codes=(("one", 0), ("two", 0)))
    assert expected == outcome
    assert [
        "RunPodSandbox",
        "PodSandboxStatus",
        *["ImageStatus", "CreateContainer", "StartContainer"] * 2,
        *["ImageStatus"] * 2,
        *["CreateContainer"] * 2,
        *["StartContainer"] * 2,
        "ListPodSandbox",
        "StopPodSandbox",
        "PodSandboxStatus",
        *["RemoveContainer"] * 4,
        "StopPodSandbox",
        "RemovePodSandbox",
    ] == stage.methods()
    phases = [text for _, _, text in stage.events_of(EventKind.PHASE)]
    assert [PodPhase.PENDING, PodPhase.RUNNING, PodPhase.SUCCEEDED] == phases
    assert ([], []) == (stage.left(), stage.files())


async def test_a_pods_outcome_is_its_first_failure(stage: Stage) -> None:
    """With restartPolicy Never the pod fails with the first code that is not 0, in the manifest's order."""
    names = ("good", ["print", "x"]), ("bad", ["fail", "3"]), ("worse", ["fail", "4"])
    outcome = await stage.play(manifest(*({"name": name, "command": command} for name, command in names)))
    assert Outcome(phase=PodPhase.FAILED, code=3, codes=(("good", 0), ("bad", 3), ("worse", 4))) == outcome


async def test_an_init_container_that_fails_ends_the_pod(stage: Stage) -> None:
    """With restartPolicy Never nothing is created behind an init container that failed."""
    outcome = await stage.play(
        manifest({"name": "main"}, initContainers=[{"name": "first", "command": ["fail", "7"]}, {"name": "second"}])
    )
    assert Outcome(phase=PodPhase.FAILED, code=7, codes=(("first", 7),)) == outcome
    assert 1 == stage.methods().count("CreateContainer")


async def test_restarts_wait_longer_each_time(stage: Stage) -> None:
    """The first restart comes at once, the next after 10 s, 20 s, 40 s and so on, and the attempt is counted."""
    task = asyncio.create_task(
        stage.player().play(
            parse(manifest({"name": "main", "command": ["fail", "1"]}, restartPolicy="OnFailure"), uid="u", seen=SEEN)
        )
    )
    while len(stage.events_of(EventKind.STARTED)) < 6:
        await stage.world.clock.advance(1)
    pauses = [text for _, _, text in stage.events_of(EventKind.WAITING)]
    assert ["back-off 10 s", "back-off 20 s", "back-off 40 s", "back-off 80 s", "back-off 160 s"] == pauses[:5]
    attempts = [text for _, _, text in stage.events_of(EventKind.STARTED)]
    assert ["", "attempt 1", "attempt 2", "attempt 3", "attempt 4", "attempt 5"] == attempts
    stage.world.fake.exits("main", 0)
    assert PodPhase.SUCCEEDED is (await stage.finish(task)).phase
    assert [] == stage.left()


async def test_liveness_restarts_a_container(stage: Stage) -> None:
    """A container whose liveness probe fails three times in a row is stopped, and started again by its policy."""
    probe = exec_probe("fail", "1", periodSeconds=5, initialDelaySeconds=2)
    pod = manifest({"name": "main", "command": ["sleep"], "livenessProbe": probe}, restartPolicy="OnFailure")
    task = asyncio.create_task(stage.player().play(parse(pod, uid="u", seen=SEEN)))
    await stage.until(EventKind.UNHEALTHY, "main")
    assert [(12.0, "main", "liveness probe failed")] == stage.events_of(EventKind.UNHEALTHY)
    while len(stage.events_of(EventKind.STARTED)) < 2:
        await stage.world.clock.advance(1)
    stage.world.fake.exits("main", 0)
    assert PodPhase.SUCCEEDED is (await stage.finish(task)).phase
    (code,) = {event.code for _, event in stage.events if event.kind is EventKind.EXITED} - {0}
    assert 143 == code


async def test_a_startup_probe_holds_the_others_back(stage: Stage) -> None:
    """Readiness is probed only after the startup probe has succeeded; a container that never starts up is stopped."""
    up = exec_probe("fail", "1", periodSeconds=1, failureThreshold=4)
    pod = manifest({"name": "main", "command": ["sleep"], "startupProbe": up, "readinessProbe": exec_probe("print", "x")})
    outcome = await stage.play(pod)
    assert 143 == outcome.code
    assert [(3.0, "main", "startup probe failed")] == stage.events_of(EventKind.UNHEALTHY)
    assert 4 == stage.methods().count("ExecSync")


async def test_readiness_is_reported(stage: Stage) -> None:
    """A container becomes ready with the first success of its probe, and unready with the third failure in a row."""
    probe = exec_probe("print", "x", initialDelaySeconds=3, periodSeconds=2)
    pod = manifest({"name": "main", "command": ["sleep"], "readinessProbe": probe})
    task = asyncio.create_task(stage.player().play(parse(pod, uid="u", seen=SEEN)))
    await stage.until(EventKind.READY, "main")
    stage.world.fake.exec = _failing_exec  # type: ignore[method-assign]  # from now on the probe fails
    await stage.until(EventKind.UNREADY, "main")
    stage.world.fake.exits("main", 0)
    await stage.finish(task)
    assert [3.0] == [at for at, _, _ in stage.events_of(EventKind.READY)]
    assert [9.0] == [at for at, _, _ in stage.events_of(EventKind.UNREADY)]


async def _failing_exec(container_id: object, spec: object, io: object) -> Exit:
    return Exit(code=1)


async def test_sidecars_come_first_and_go_last(stage: Stage) -> None:
    """A sidecar is up before the containers are created, restarts whatever the pod's policy, and is stopped after them."""
    up = exec_probe("print", "x", initialDelaySeconds=2)
    pod = manifest(
        {"name": "main", "command": ["print", "x"]},
        initContainers=[
            {"name": "a", "command": ["sleep"], "restartPolicy": "Always", "startupProbe": up},
            {"name": "b", "command": ["sleep"], "restartPolicy": "Always"},
        ],
    )
    outcome = await stage.play(pod)
    assert (PodPhase.SUCCEEDED, 0) == (outcome.phase, outcome.code)
    assert ["a", "b", "main"] == [name for _, name, _ in stage.events_of(EventKind.STARTED)]
    assert [2.0] == [at for at, name, _ in stage.events_of(EventKind.STARTED) if name == "b"]
    assert ["b", "a"] == [name for _, name, _ in stage.events_of(EventKind.STOPPING)]


async def test_hooks_run_where_they_belong(stage: Stage) -> None:
    """The start hook runs after the start, the stop hook before the signal, and its duration is subtracted from the grace."""
    life = {"postStart": exec_probe("print", "up"), "preStop": {"sleep": {"seconds": 4}}}
    pod = manifest({"name": "main", "command": ["sleep"], "lifecycle": life}, terminationGracePeriodSeconds=10)
    sent: list[pb.StopContainerRequest] = []
    player = stage.player()
    player._client.call = _watching(player._client.call, pb.StopContainerRequest, sent)
    task = asyncio.create_task(player.play(parse(pod, uid="u", seen=SEEN)))
    await stage.until(EventKind.STARTED, "main")
    await stage.world.clock.advance(1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stage.finish(task)
    assert [6] == [request.timeout for request in sent]
    assert stage.methods().index("ExecSync") > stage.methods().index("StartContainer")
    assert [] == stage.left()


def _watching(call: Any, kind: type[Message], seen: list[Any]) -> Any:
    async def watched(method: str, request: bytes, timeout: float | None) -> bytes:
        if kind.DESCRIPTOR.name == f"{method}Request":
            seen.append(kind.FromString(request))
        reply: bytes = await call(method, request, timeout)
        return reply

    return watched


async def test_cancelled_it_leaves_nothing(stage: Stage) -> None:
    """A player that is cancelled, twice, still stops the pod with its grace and removes it; hurried, it waits no longer."""
    pod = manifest({"name": "main", "command": ["stubborn"]}, terminationGracePeriodSeconds=1000)
    player = stage.player()
    task = asyncio.create_task(player.play(parse(pod, uid="u", seen=SEEN)))
    await stage.until(EventKind.STARTED, "main")
    task.cancel()
    await stage.until(EventKind.STOPPING, "main")
    task.cancel()
    await stage.world.clock.advance(10)
    assert not task.done()
    await player.hurry()
    with pytest.raises(asyncio.CancelledError):
        await stage.finish(task)
    assert 10.0 <= stage.world.clock.monotonic() < 1000.0
    assert ([], []) == (stage.left(), stage.files())


async def test_a_deadline_ends_the_pod(stage: Stage) -> None:
    """A pod that runs into its activeDeadlineSeconds fails with 124."""
    outcome = await stage.play(manifest({"name": "main", "command": ["sleep"]}, activeDeadlineSeconds=60))
    assert Outcome(phase=PodPhase.FAILED, code=124) == outcome
    assert [] == stage.left()


async def test_what_cannot_be_created_ends_the_play(stage: Stage) -> None:
    """A container that the runtime refuses raises the runtime's own code, and the sandbox is removed."""
    security = {"privileged": True}
    pod = manifest({"name": "main", "image": "registry.example/none:1", "imagePullPolicy": "Never"})
    with pytest.raises(CallError) as refused:
        await stage.play(pod)
    assert Code.NOT_FOUND is refused.value.code
    assert [] == stage.left()
    stage.world.fake._info = attrs.evolve(stage.world.fake._info, supported=frozenset())
    async with Harness(stage.world.fake) as world:
        fresh = Stage(world, stage.folder, [], [])
        with pytest.raises(CallError) as unkept:
            await fresh.play(manifest({"name": "main", "securityContext": security}))
        assert Code.INVALID_ARGUMENT is unkept.value.code
        assert [] == fresh.left()


async def test_what_cannot_be_started_has_ended(stage: Stage) -> None:
    """A failed start counts as an end with 128, and the restart policy applies to it."""
    from crishim.testing import failing

    async with Harness(failing(stage.world.fake, "start_container", at=1)) as world:
        fresh = Stage(world, stage.folder, [], [])
        outcome = await fresh.play(manifest({"name": "main", "command": ["print", "x"]}, restartPolicy="OnFailure"))
        assert PodPhase.SUCCEEDED is outcome.phase
        assert [128, 0] == [event.code for _, event in fresh.events if event.kind is EventKind.EXITED]


async def test_images_are_pulled_by_policy(stage: Stage) -> None:
    """An image that is there is not pulled unless its policy is Always; one that is not there is pulled."""
    await stage.play(
        manifest(
            {"name": "there", "command": ["print"]},
            {"name": "always", "command": ["print"], "imagePullPolicy": "Always"},
            {"name": "new", "image": "registry.example/new:1", "command": ["print"]},
        )
    )
    assert {IMAGE, "registry.example/new:1"} == set(stage.world.images.pulls)
    assert 2 == len(stage.world.images.pulls)


async def test_a_message_is_reported(stage: Stage) -> None:
    """A container's termination message is in its exit event."""
    pod = manifest({"name": "main", "command": ["sleep"]})
    task = asyncio.create_task(stage.player().play(parse(pod, uid="u", seen=SEEN)))
    await stage.until(EventKind.STARTED, "main")
    (message,) = stage.folder.glob("kubelet/pods/u/containers/main/*")
    message.write_text("because\n")
    stage.world.fake.exits("main", 5)
    await stage.finish(task)
    assert ["Error: because"] == [text for _, _, text in stage.events_of(EventKind.EXITED)]


async def test_stop_hooks_run_at_once_and_sidecars_wait_their_turn(stage: Stage) -> None:
    """Hooks run beside each other; a sidecar's signal waits for all that started behind it, and the waiting costs its grace."""
    hook = {"preStop": {"sleep": {"seconds": 4}}}
    pod = manifest(
        {"name": "main", "command": ["stubborn"], "lifecycle": hook},
        initContainers=[
            {"name": "a", "command": ["sleep"], "restartPolicy": "Always"},
            {"name": "b", "command": ["sleep"], "restartPolicy": "Always", "lifecycle": hook},
        ],
        terminationGracePeriodSeconds=10,
    )
    player = stage.player()
    sent: list[pb.StopContainerRequest] = []
    player._client.call = _watching(player._client.call, pb.StopContainerRequest, sent)
    task = asyncio.create_task(player.play(parse(pod, uid="u", seen=SEEN)))
    await stage.until(EventKind.STARTED, "main")
    begin = stage.world.clock.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stage.finish(task)
    stops = [(at - begin, name) for at, name, _ in stage.events_of(EventKind.STOPPING)]
    assert {(4.0, "main"), (10.0, "b"), (10.0, "a")} == set(stops)
    assert [6, 2, 2] == [request.timeout for request in sent]
    assert ([], []) == (stage.left(), stage.files())


async def test_what_is_played_is_what_was_recorded(stage: Stage) -> None:
    """Played, the recorded host-network pod's requests are the recorded ones but for the folders, the hash and a file name."""
    recorded = [json.loads(line) for line in (GOLDEN / "kubelet-1.36.jsonl").read_text(encoding="utf-8").splitlines()]
    mine = [call for call in recorded if call["pod"] == "hostnet"]
    run, create = (
        next(call["request"] for call in mine if call["method"] == word) for word in ("RunPodSandbox", "CreateContainer")
    )
    pod = json.loads((GOLDEN / "kubelet-1.36-pods.json").read_text(encoding="utf-8"))["hostnet"]
    image = create["config"]["image"]
    stage.world.images.add(image["user_specified_image"])
    sent: list[pb.CreateContainerRequest] = []
    requests: list[pb.RunPodSandboxRequest] = []
    player = stage.player(
        name="node1",
        ips=("192.0.2.1",),
        dns=DNSConfig(servers=("10.255.255.53",)),
        page_sizes=("2MB", "1GB"),
    )
    player._client.call = _watching(player._client.call, pb.CreateContainerRequest, sent)
    player._client.call = _watching(player._client.call, pb.RunPodSandboxRequest, requests)
    uid, seen = run["config"]["metadata"]["uid"], run["config"]["annotations"]["kubernetes.io/config.seen"]
    task = asyncio.create_task(player.play(parse(pod, uid=uid, seen=seen, static_on="node1")))
    await stage.until(EventKind.STARTED, "main")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stage.finish(task)
    texts = {
        str(stage.folder / "kubelet"): "/var/lib/kubelet",
        str(stage.folder / "logs"): "/var/log/pods",
        "containers/main/00000000": "containers/main/50163774",
        sent[0].config.annotations["io.kubernetes.container.hash"]: "c991af1e",
        sent[0].config.image.image: image["image"],
        sent[0].pod_sandbox_id: create["pod_sandbox_id"],
    }
    for expected, message in ((run, requests[0]), (create, sent[0])):
        text = json_format.MessageToJson(message, preserving_proto_field_name=True)
        for mine_, theirs in texts.items():
            text = text.replace(mine_, theirs)
        assert json_format.ParseDict(expected, type(message)()) == json_format.Parse(text, type(message)())


async def test_a_hosts_file_is_the_kubelets(stage: Stage) -> None:
    """/etc/hosts of a pod reads as a real kubelet wrote it."""
    from crishim.play.volumes import hosts_file

    expected = (
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        "10.88.0.177\tplain-node1\n"
    )
    assert expected == hosts_file("plain-node1", ("10.88.0.177",))
