"""One Hypothesis strategy per model class: `of(kind)`.

Fields are drawn by their annotations. Where CRI says more than the annotation does (ranges, what goes with what), the class or
its field has a rule below; so what is drawn is what a request can say, and every converter takes it.
"""

import enum
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar, cast

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from crishim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerStatus,
    Device,
    KeyValue,
    Mount,
    MountPropagation,
)
from crishim.model.image import FilesystemUsage, Image, ImageSpec
from crishim.model.process import TerminalSize
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, PortMapping
from crishim.model.security import (
    IDMapping,
    LinuxContainerSecurityContext,
    LinuxContainerUser,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    UserNamespace,
)
from crishim.model.values import FrozenDict, Versioned

T = TypeVar("T")
Drawn = SearchStrategy[Any]

TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=6)
NAME: Final = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
ID: Final = st.text("0123456789abcdef", min_size=1, max_size=8)
PATH: Final = NAME.map("/".__add__)
ESCAPED: Final = st.binary(max_size=6).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
MAP: Final = st.dictionaries(TEXT, TEXT, max_size=2).map(FrozenDict)
NATURAL: Final = st.integers(0, 2**63 - 1)
SIGNED: Final = st.integers(-(2**63), 2**63 - 1)
EXIT_CODE: Final = st.integers(-(2**31), 2**31 - 1)
LIMIT_OR_NONE: Final = st.integers(-1, 2**63 - 1)
UINT32: Final = st.integers(0, 2**32 - 1)
LINUX_ID: Final = st.integers(0, 2**31 - 1)
PORT: Final = st.integers(0, 2**16 - 1)

_PLAIN: Final[Mapping[type, Drawn]] = {
    str: TEXT,
    bytes: st.binary(max_size=6),
    bool: st.booleans(),
    int: NATURAL,
    float: st.floats(0, 100),
}


def few(items: SearchStrategy[T]) -> SearchStrategy[tuple[T, ...]]:
    """At most two of them."""
    return st.lists(items, max_size=2).map(tuple)


def maybe(items: SearchStrategy[T]) -> SearchStrategy[T | None]:
    """One, or none."""
    return st.none() | items


@cache
def of(kind: type[T]) -> SearchStrategy[T]:
    """The strategy of a model class."""
    rule = _CLASSES.get(kind)
    return cast("SearchStrategy[T]", st.deferred(rule) if rule else built(kind))


def built(kind: type[T], **given: Drawn) -> SearchStrategy[T]:
    """Values of an attrs class with every field drawn: as given, by its rule, or by its annotation."""
    hints = typing.get_type_hints(kind)
    rules = {**_FIELDS.get(kind, {}), **given}
    fields = attrs.fields(cast("Any", kind))
    return st.builds(kind, **{field.name: rules.get(field.name, by_annotation(hints[field.name])) for field in fields})


def by_annotation(hint: Any) -> Drawn:
    """Values of a field that has no rule of its own."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return st.one_of([st.none() if arm is types.NoneType else by_annotation(arm) for arm in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return few(by_annotation(arguments[0]))
    if origin is tuple:
        return st.tuples(*map(by_annotation, arguments))
    if origin is FrozenDict:
        return MAP
    if hasattr(hint, "__supertype__"):
        return ID
    if issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    return st.deferred(lambda: of(hint)) if attrs.has(hint) else _PLAIN[hint]


def _user_namespaces() -> Drawn:
    one = st.tuples(built(IDMapping, container_id=st.just(0), length=st.integers(1, 2**32 - 1)))
    return st.builds(UserNamespace, mode=st.just(NamespaceMode.NODE)) | st.builds(
        UserNamespace, mode=st.just(NamespaceMode.POD), uids=one, gids=one
    )


def _namespaces() -> Drawn:
    shared = st.sampled_from([NamespaceMode.POD, NamespaceMode.NODE])
    own = st.sampled_from([NamespaceMode.POD, NamespaceMode.CONTAINER, NamespaceMode.NODE])
    return built(NamespaceOption, network=shared, ipc=shared, pid=own, target_id=st.just("")) | built(
        NamespaceOption, network=shared, ipc=shared, pid=st.just(NamespaceMode.TARGET), target_id=ID
    )


def _profiles() -> Drawn:
    plain = st.sampled_from([ProfileType.RUNTIME_DEFAULT, ProfileType.UNCONFINED])
    return st.builds(SecurityProfile, profile_type=plain) | st.builds(
        SecurityProfile, profile_type=st.just(ProfileType.LOCALHOST), localhost_ref=NAME
    )


def _sandbox_contexts() -> Drawn:
    context = LinuxSandboxSecurityContext
    return built(context, run_as_user=LINUX_ID, run_as_group=maybe(LINUX_ID)) | built(
        context, run_as_user=st.none(), run_as_group=st.none()
    )


def _mounts() -> Drawn:
    shallow, path = st.just(False), {"host_path": PATH, "image": st.none()}
    deep = {"readonly": st.just(True), "recursive_read_only": st.just(True), "propagation": st.just(MountPropagation.PRIVATE)}
    named = built(ImageSpec, image=NAME)
    return st.one_of(
        built(Mount, recursive_read_only=shallow, **path),
        built(Mount, **deep, **path),
        built(Mount, recursive_read_only=shallow, host_path=st.just(""), readonly=st.just(True), image=named),
    )


def _images() -> Drawn:
    return built(Image, username=st.just("")) | built(Image, uid=st.none(), username=NAME)


def _versioned() -> Drawn:
    return st.builds(Versioned, version=NATURAL, item=TEXT)


_CLASSES: Final[Mapping[type, Callable[[], Drawn]]] = {
    UserNamespace: _user_namespaces,
    NamespaceOption: _namespaces,
    SecurityProfile: _profiles,
    LinuxSandboxSecurityContext: _sandbox_contexts,
    Mount: _mounts,
    Image: _images,
    Versioned: _versioned,
}

_FIELDS: Final[Mapping[type, Mapping[str, Drawn]]] = {
    ContainerConfig: {"cdi_devices": few(NAME)},
    ContainerMetadata: {"name": NAME, "attempt": UINT32},
    ContainerStatus: {"exit_code": EXIT_CODE, "message": ESCAPED},
    Device: {"container_path": PATH, "host_path": PATH, "permissions": st.sampled_from(["r", "w", "m", "rw", "mrw"])},
    FilesystemUsage: {"mountpoint": PATH},
    HugepageLimit: {"page_size": NAME},
    IDMapping: {"host_id": UINT32, "container_id": UINT32, "length": UINT32},
    Image: {"size": st.integers(1, 2**64 - 1)},
    KeyValue: {"value": ESCAPED},
    LinuxContainerSecurityContext: {
        "run_as_user": maybe(SIGNED),
        "run_as_group": maybe(SIGNED),
        "supplemental_groups": few(LINUX_ID),
    },
    LinuxContainerUser: {"uid": LINUX_ID, "gid": LINUX_ID, "supplemental_groups": few(LINUX_ID)},
    LinuxSandboxSecurityContext: {"supplemental_groups": few(LINUX_ID)},
    Mount: {"container_path": PATH},
    PodSandboxConfig: {"log_directory": st.just("") | PATH},
    PodSandboxMetadata: {"name": NAME, "namespace": NAME, "uid": NAME, "attempt": UINT32},
    PortMapping: {"container_port": PORT, "host_port": PORT},
    Resources: {
        "cpu_quota": LIMIT_OR_NONE,
        "memory_limit_in_bytes": LIMIT_OR_NONE,
        "memory_swap_limit_in_bytes": LIMIT_OR_NONE,
        "oom_score_adj": st.integers(-1000, 1000),
    },
    TerminalSize: {"width": st.integers(1, 2**16 - 1), "height": st.integers(1, 2**16 - 1)},
}
