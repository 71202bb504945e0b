"""The treatment of each field by a backend (pure).

A request that sets the field is decoded, resolved and compared with the features of the backend, by the same code as in the
service. Three tables supplement this, and tests compare them with the code: what crishim itself does with a field (`OURS`),
which fields it reads and does not use (`UNUSED`), and which RPC needs which capability (`NEEDED`). The fields that a backend
accepts and does not use are in its `Plugin.ignores`, by the names of the lines here.
"""

import enum
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

import attrs

from crishim._proto import cri_pb2 as pb
from crishim.coverage.samples import Field, fields, with_field
from crishim.cri.convert import container, sandbox_config
from crishim.cri.routes import Row, routes
from crishim.errors import InvalidArgument
from crishim.interfaces.capabilities import (
    SupportsAttach,
    SupportsCheckpoint,
    SupportsExec,
    SupportsLogReopen,
    SupportsPause,
    SupportsPortForward,
    SupportsSandboxUpdate,
    SupportsStats,
    SupportsUpdate,
)
from crishim.lifecycle.features import container_features, sandbox_features
from crishim.lifecycle.resolve import resolve
from crishim.model.container import ContainerSpec
from crishim.model.features import Feature
from crishim.model.image import ImageConfig
from crishim.model.sandbox import SandboxSpec
from crishim.model.values import ContainerId, ImageId, SandboxId

SANDBOX: Final = "PodSandboxConfig"
CONTAINER: Final = "ContainerConfig"

OURS: Final[Mapping[str, str]] = {
    f"{SANDBOX}.metadata": "names the sandbox",
    f"{SANDBOX}.log_directory": "where containers' logs are",
    f"{SANDBOX}.labels": "stored and returned",
    f"{SANDBOX}.annotations": "stored and returned",
    f"{SANDBOX}.linux.resources": "stored and returned",
    f"{SANDBOX}.linux.overhead": "stored and returned",
    "UpdateRuntimeConfigRequest": "stored and returned",
    f"{CONTAINER}.metadata": "names the container",
    f"{CONTAINER}.image": "finds the image; stored and returned",
    f"{CONTAINER}.labels": "stored and returned",
    f"{CONTAINER}.annotations": "stored and returned",
    f"{CONTAINER}.stop_signal": "the signal that begins a stop",
    f"{CONTAINER}.linux.security_context.namespace_options.target_id": "must name a running container of the sandbox",
}
"""The use of a field by crishim itself for every backend, by field or prefix of a field."""

UNUSED: Final[Mapping[str, str]] = {
    "UpdateContainerResourcesRequest.annotations": "hints for runtimes with plug-ins of their own",
    "VersionRequest.version": "the kubelet's own version, which has no effect",
    f"{CONTAINER}.mounts.image.runtime_handler": "the sandbox has its handler",
    **{
        f"{image}.{field}": "the image reference suffices"
        for image in (
            f"{CONTAINER}.mounts.image",
            "ListImagesRequest.filter.image",
            "StreamImagesRequest.filter.image",
            "ImageStatusRequest.image",
            "PullImageRequest.image",
            "RemoveImageRequest.image",
        )
        for field in ("annotations", "user_specified_image", "image_ref")
    },
}
"""Fields that are read and stored, and have no effect."""

SENSELESS: Final[Mapping[str, str]] = {
    "CheckpointPodRequest.options": "InvalidArgument: no option is known",
    "RestorePodRequest.options": "InvalidArgument: no option is known",
}
"""The requests that every backend refuses, besides the two configurations."""

NODE_IMAGES_REFUSE: Final[Mapping[str, str]] = {
    "PullImageRequest.auth.registry_token": "InvalidArgument: skopeo takes it on its command line only, for everybody to read",
}
"""What the node's own image store refuses."""

NEEDED: Final[Mapping[str, tuple[type, ...]]] = {
    "ExecSync": (SupportsExec,),
    "Exec": (SupportsExec,),
    "Attach": (SupportsAttach,),
    "PortForward": (SupportsPortForward,),
    "ReopenContainerLog": (SupportsLogReopen,),
    "UpdateContainerResources": (SupportsUpdate,),
    "UpdatePodSandboxResources": (SupportsSandboxUpdate,),
    "CheckpointContainer": (SupportsCheckpoint,),
    "CheckpointPod": (SupportsCheckpoint, SupportsPause),
    "RestorePod": (SupportsCheckpoint,),
    "ContainerStats": (SupportsStats,),
    "PodSandboxStats": (SupportsStats,),
}
"""RPCs that are UNIMPLEMENTED without a capability."""

_BASE_SANDBOX: Final = pb.PodSandboxConfig(
    metadata=pb.PodSandboxMetadata(name="pod", namespace="default", uid="uid"), log_directory="/logs"
)
_BASE_CONTAINER: Final = pb.ContainerConfig(
    metadata=pb.ContainerMetadata(name="main"),
    image=pb.ImageSpec(image="image"),
    command=["program"],
    linux=pb.LinuxContainerConfig(
        security_context=pb.LinuxContainerSecurityContext(namespace_options=pb.NamespaceOption(pid=pb.CONTAINER))
    ),
)


class Verdict(enum.StrEnum):
    """The treatment of a field that a request sets."""

    SUPPORTED = "supported"
    REFUSED = "refused"
    IGNORED = "ignored"
    NOT_STATED = "not stated"


@attrs.frozen
class FieldVerdict:
    """A field by its message and its path in it, with its treatment."""

    message: str
    field: str
    verdict: Verdict
    reason: str = ""

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.message}.{self.field}"


@attrs.frozen(kw_only=True)
class Subject:
    """A backend: its features, its capabilities, and the fields that it ignores."""

    name: str
    supported: Collection[Feature]
    capabilities: Collection[type]
    dials: bool = False
    """Whether crishim itself can dial in the network namespaces of its pods."""
    node_images: bool = False
    """Whether its images are in the node's own store."""
    ignores: Mapping[str, str] | None = attrs.field(factory=dict)
    """As `Plugin.ignores`; None for a plug-in that does not say what it ignores."""


def coverage(subject: Subject) -> tuple[FieldVerdict, ...]:
    """A line for every field of every request, in CRI's order. Raises `InvalidArgument` for `ignores` that are not fields."""
    lines = (*_sandbox_lines(subject), *_container_lines(subject), *_other_lines(subject))
    for name in subject.ignores or ():
        if not any(_begins(line.name, name) for line in lines):
            raise InvalidArgument(f"ignores[{name}]", "is not a field of CRI")
    return lines


def sandbox_with(field: Field | None) -> SandboxSpec:
    """The plainest sandbox, or one that sets a field. Raises `InvalidArgument`."""
    message = with_field(_BASE_SANDBOX, field) if field else _BASE_SANDBOX
    config = sandbox_config.decode_config(message, "config")
    return SandboxSpec(id=SandboxId("sandbox"), config=config)


def container_with(field: Field | None, sandbox: SandboxSpec) -> ContainerSpec:
    """The plainest container, or one that sets a field. Raises `InvalidArgument`."""
    message = with_field(_BASE_CONTAINER, field) if field else _BASE_CONTAINER
    config = container.decode_config(message, "config")
    return resolve(config, ImageConfig(), sandbox, container_id=ContainerId("container"), image_id=ImageId("image"))


def _sandbox_lines(subject: Subject) -> Iterator[FieldVerdict]:
    for field in fields(pb.PodSandboxConfig.DESCRIPTOR):
        yield _line(subject, SANDBOX, field, lambda field: sandbox_features(sandbox_with(field)))


def _container_lines(subject: Subject) -> Iterator[FieldVerdict]:
    sandbox = sandbox_with(None)
    for field in fields(pb.ContainerConfig.DESCRIPTOR):
        yield _line(subject, CONTAINER, field, lambda field: container_features(container_with(field, sandbox)))


def _line(subject: Subject, message: str, field: Field, requested: Callable[[Field], Mapping[Feature, bool]]) -> FieldVerdict:
    try:
        features = [] if field.ignored else [feature for feature, is_set in requested(field).items() if is_set]
    except InvalidArgument as error:
        return FieldVerdict(message, field.name, Verdict.REFUSED, error.message)
    return _judged(subject, message, field, features)


def _other_lines(subject: Subject) -> Iterator[FieldVerdict]:
    for row in routes().values():
        missing = [needed.__name__ for needed in _missing(subject, row)]
        for field in fields(row.request.DESCRIPTOR, without=frozenset({"config", "sandbox_config", "container_configs"})):
            name = row.request.DESCRIPTOR.name
            if missing and not field.ignored:
                yield FieldVerdict(name, field.name, Verdict.REFUSED, f"UNIMPLEMENTED without {missing[0]}")
            else:
                yield _judged(subject, name, field, ())


def _missing(subject: Subject, row: Row) -> list[type]:
    if row.name == "PortForward" and subject.dials:
        return []
    return [needed for needed in NEEDED.get(row.name, ()) if needed not in subject.capabilities]


def _judged(subject: Subject, message: str, field: Field, requested: Collection[Feature]) -> FieldVerdict:
    name = f"{message}.{field.name}"
    if field.ignored:
        return FieldVerdict(message, field.name, Verdict.IGNORED, field.ignored)
    if missing := [feature for feature in requested if feature not in subject.supported]:
        nearest = max(missing, key=lambda feature: len(feature.value) if _begins(field.name, feature.value) else 0)
        return FieldVerdict(message, field.name, Verdict.REFUSED, f"InvalidArgument names config.{nearest.value}")
    for table in (SENSELESS, NODE_IMAGES_REFUSE if subject.node_images else {}):
        if (reason := longest_match(table, name)) is not None:
            return FieldVerdict(message, field.name, Verdict.REFUSED, reason)
    for table in (UNUSED, subject.ignores or {}):
        if (reason := longest_match(table, name)) is not None:
            return FieldVerdict(message, field.name, Verdict.IGNORED, reason)
    use = longest_match(OURS, name)
    if subject.ignores is None and use is None and not requested and message in {SANDBOX, CONTAINER}:
        return FieldVerdict(message, field.name, Verdict.NOT_STATED, "no feature, and the plug-in has no `ignores`")
    return FieldVerdict(message, field.name, Verdict.SUPPORTED, use or "")


def longest_match(table: Mapping[str, str], name: str) -> str | None:
    """The value in a table for a field, or for its longest prefix."""
    known = [key for key in table if _begins(name, key)]
    return table[max(known, key=len)] if known else None


def _begins(name: str, key: str) -> bool:
    return name == key or name.startswith((f"{key}.", f"{key}="))
