from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from crishim.backends.docker.convert import supported
from crishim.backends.docker.options import EngineFacts
from crishim.coverage.samples import Field, fields
from crishim.coverage.verdicts import (
    CONTAINER,
    NEEDED,
    OURS,
    SANDBOX,
    SENSELESS,
    UNUSED,
    FieldVerdict,
    Subject,
    Verdict,
    coverage,
    longest_match,
)
from crishim.cri import Dispatcher, pb
from crishim.errors import InvalidArgument, Unimplemented
from crishim.images.reference import parse
from crishim.images.skopeo import credentials
from crishim.interfaces.capabilities import ALL
from crishim.model.features import OCI, PROCESS, Feature
from crishim.model.image import AuthConfig
from crishim.plugins import load
from crishim.testing import FakeBackend, Harness
from tests.coverage.worlds import on_docker, on_processes, on_runc

WORLDS: dict[str, tuple[Collection[Feature], Callable[[Path, str, Field | None], Any]]] = {
    "process": (PROCESS, on_processes),
    "runc": (OCI, on_runc),
    "docker": (supported(EngineFacts(cgroup_v2=True, apparmor=True, recursive_readonly=True)), on_docker),
}

EVERYWHERE = {
    "port_mappings.protocol=TCP",
    "linux.security_context.namespace_options.userns_options.mode=NODE",
    "linux.security_context.seccomp.profile_type=Unconfined",
    "linux.security_context.apparmor.profile_type=Unconfined",
    "linux.security_context.supplemental_groups_policy=Merge",
    "mounts.propagation=PROPAGATION_PRIVATE",
}
PLAIN = {
    "process": {*EVERYWHERE, *(f"linux.security_context.namespace_options.{kind}=NODE" for kind in ("network", "pid", "ipc"))},
    "runc": {
        *EVERYWHERE,
        "linux.security_context.namespace_options.network=POD",
        "linux.security_context.namespace_options.ipc=POD",
        f"{SANDBOX}.linux.security_context.namespace_options.pid=POD",
        f"{CONTAINER}.linux.security_context.namespace_options.pid=CONTAINER",
        f"{CONTAINER}.linux.security_context.apparmor.profile_type=RuntimeDefault",
    },
    "docker": {
        *EVERYWHERE,
        "linux.security_context.namespace_options.network=POD",
        "linux.security_context.namespace_options.ipc=POD",
        "linux.security_context.namespace_options.pid=CONTAINER",
        f"{SANDBOX}.linux.security_context.namespace_options.pid=POD",
        f"{CONTAINER}.linux.security_context.apparmor.profile_type=RuntimeDefault",
    },
}
"""Values that ask for what the plainest pod of these tests has anyway: to keep them nothing has to change."""


def subject(name: str) -> Subject:
    return Subject(name=name, supported=WORLDS[name][0], capabilities=ALL, ignores=load(name).ignores)


def message_fields(message: str) -> list[Field]:
    return list(fields(pb.DESCRIPTOR.message_types_by_name[message]))


def lines_of(name: str) -> dict[str, FieldVerdict]:
    return {line.name: line for line in coverage(subject(name))}


def beside(field: Field, known: dict[str, Field]) -> Field | None:
    """The baseline of a mount's field: a mount without it."""
    if field.name.startswith(("mounts.image.", "mounts.image_sub_path")) and field.name != "mounts.image.image":
        return known["mounts.image.image"]
    return known["mounts.host_path"] if field.name.startswith("mounts.") and not field.name.endswith("_path") else None


@pytest.mark.parametrize("message", [SANDBOX, CONTAINER])
@pytest.mark.parametrize("name", WORLDS)
def test_every_line_is_true(tmp_path: Path, name: str, message: str) -> None:
    """A field called supported changes the backend's actions, and one called ignored changes nothing."""
    effect = WORLDS[name][1]
    lines, known = lines_of(name), {field.name: field for field in message_fields(message)}
    wrong = []
    for field in known.values():
        line = lines[f"{message}.{field.name}"]
        if (
            line.verdict is Verdict.REFUSED
            or field.ignored
            or longest_match(OURS, line.name)
            or {field.name, line.name} & PLAIN[name]
        ):
            continue
        changes = effect(tmp_path, message, field) != effect(tmp_path, message, beside(field, known))
        if changes != (line.verdict is Verdict.SUPPORTED):
            wrong.append((line.name, line.verdict))
    assert [] == wrong, wrong


@pytest.mark.parametrize("message", [SANDBOX, CONTAINER])
def test_refusals_follow_what_is_supported(message: str) -> None:
    """A backend that supports everything refuses only what makes no sense; one that supports nothing, each by its name."""
    everything = coverage(Subject(name="all", supported=frozenset(Feature), capabilities=ALL))
    nothing = coverage(Subject(name="none", supported=frozenset(), capabilities=()))
    senseless = [line.reason for line in everything if line.message == message and line.verdict is Verdict.REFUSED]
    assert {"must be POD or NODE"} == {reason.rpartition(": ")[2] for reason in senseless} - {
        "must be POD, CONTAINER, NODE or TARGET"
    }
    named = " ".join(line.reason for line in nothing if line.verdict is Verdict.REFUSED)
    fields = set(Feature) - {Feature.OCI_CHANGES}  # which come from plugins of the node, and from no request
    assert [] == sorted(feature.value for feature in fields if f"config.{feature.value}" not in named)


def test_every_field_has_one_line() -> None:
    """Each field of each request is there once, and what CRI calls Windows' is ignored."""
    names = [line.name for line in coverage(subject("runc"))]
    assert len(names) == len(set(names))
    assert Verdict.IGNORED is lines_of("runc")[f"{CONTAINER}.windows"].verdict
    requests = {method.input_type.name for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods}
    seen = {line.message for line in coverage(subject("runc"))}
    bare = {name for name in requests if not pb.DESCRIPTOR.message_types_by_name[name].fields}
    assert {"CreateContainerRequest", *requests} - bare == seen - {SANDBOX, CONTAINER}


def test_no_table_is_out_of_date() -> None:
    """Every name in the tables exists, and a backend that names an unknown one gets an error."""
    names = set(lines_of("runc"))
    for key in (*OURS, *UNUSED, *SENSELESS):
        assert any(name == key or name.startswith((f"{key}.", f"{key}=")) for name in names), key
    with pytest.raises(InvalidArgument) as refused:
        coverage(Subject(name="x", supported=(), capabilities=(), ignores={"ContainerConfig.colour": "no"}))
    assert "ignores[ContainerConfig.colour]" == refused.value.field


def test_the_node_s_image_store_takes_no_registry_token() -> None:
    """A token of a registry is refused where images are in the node's own store, as a pull refuses it."""
    field = "PullImageRequest.auth.registry_token"
    node = {line.name: line for line in coverage(Subject(name="x", supported=(), capabilities=ALL, node_images=True))}
    assert (Verdict.REFUSED, Verdict.SUPPORTED) == (node[field].verdict, lines_of("docker")[field].verdict)
    with pytest.raises(InvalidArgument, match="registry_token"):
        credentials(parse("registry/image"), AuthConfig(registry_token="token"))


@pytest.mark.parametrize("rpc", NEEDED)
async def test_what_is_needed_is_needed(rpc: str) -> None:
    """An RPC that is said to need a capability is Unimplemented on a backend that claims none, and its fields are refused."""

    class Bare(FakeBackend):
        capabilities = frozenset[type]()

    async with Harness(Bare(logs_to_disk=False), network=None, namespaces=None) as world:
        sandbox_id = await world.run_sandbox()
        container_id = await world.run_container(sandbox_id, "main", "sleep")
        row = Dispatcher(world.services).routes[rpc]
        values: dict[str, Any] = {
            "container_id": container_id,
            "pod_sandbox_id": sandbox_id,
            "stdout": True,
            "cmd": ["x"],
            "location": "/x",
            "output_path": "/x",
            "checkpoint_path": "/x",
            "port": [1],
        }
        known = row.request.DESCRIPTOR.fields_by_name
        if "config" in known:
            values["config"] = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="x", namespace="x", uid="x"))
        request = row.request(**{name: value for name, value in values.items() if name in known})
        with pytest.raises(Unimplemented):
            await Dispatcher(world.services).call(rpc, request.SerializeToString())
    lines = coverage(Subject(name="bare", supported=(), capabilities=()))
    verdicts = {line.verdict for line in lines if line.message == row.request.DESCRIPTOR.name and line.field != "windows"}
    assert {Verdict.REFUSED} == verdicts


def test_who_says_nothing() -> None:
    """Of a plug-in without `ignores`, fields without a feature are not stated; with an empty one they are supported."""
    silent = {line.name: line for line in coverage(Subject(name="x", supported=(), capabilities=(), ignores=None))}
    open_ = {line.name: line for line in coverage(Subject(name="x", supported=(), capabilities=(), ignores={}))}
    field = f"{SANDBOX}.dns_config.servers"
    assert (Verdict.NOT_STATED, Verdict.SUPPORTED) == (silent[field].verdict, open_[field].verdict)
    assert Verdict.SUPPORTED is silent[f"{SANDBOX}.labels"].verdict
    assert Verdict.REFUSED is silent[f"{CONTAINER}.mounts.host_path"].verdict
