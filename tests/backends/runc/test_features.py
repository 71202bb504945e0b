"""What a runtime can do, by its own word or by its version."""

import json

import pytest

from crishim.backends.runc.command import Features, features, version_of
from crishim.model.features import OCI, Feature
from crishim.model.runtime import RuntimeHandlerFeatures

KERNEL = (6, 1)
BOTH = Features(recursive_readonly=True, userns=True, idmap=True)
UNMAPPED = Features(recursive_readonly=True, userns=True)
READONLY = Features(recursive_readonly=True)


def output_of(*, rro: bool, idmap: bool | None) -> str:
    """An answer to `features`; older ones say nothing of id mappings."""
    linux = {} if idmap is None else {"mountExtensions": {"idmap": {"enabled": idmap}}}
    return json.dumps({"mountOptions": ["ro", *(["rro"] if rro else [])], "linux": linux})


@pytest.mark.parametrize(
    ("name", "version", "text", "expected"),
    [
        ("runc", "1.1.5+ds1", output_of(rro=True, idmap=None), READONLY),
        ("runc", "1.2.0", output_of(rro=True, idmap=True), BOTH),
        ("runc", "1.3.0", output_of(rro=False, idmap=False), Features(userns=True)),
        ("crun", "1.8.1", "", UNMAPPED),
        ("crun", "1.9", "", BOTH),
        ("crun", "1.3", "", Features()),
        ("crun", "1.8.7", output_of(rro=True, idmap=None), UNMAPPED),
        ("youki", "0.5.0", output_of(rro=True, idmap=True), BOTH),
        ("youki", "0.5.0", "[]", Features()),
        ("other", "", "no such command", Features()),
    ],
)
def test_by_word_or_version(name: str, version: str, text: str, expected: Features) -> None:
    """The output of `features` precedes the version, which decides what is missing in it (runc-spec's features.md)."""
    assert expected == features(name, version, text, KERNEL)


@pytest.mark.parametrize(("kernel", "expected"), [((5, 11), Features()), ((5, 12), READONLY), ((5, 19), BOTH)])
def test_the_kernel_has_a_say(kernel: tuple[int, int], expected: Features) -> None:
    """Recursive read-only mounts need Linux 5.12, layers with ids of their own 5.19."""
    assert expected == features("crun", "1.9", "", kernel)


def test_what_a_runtime_was_built_without_is_not_supported() -> None:
    """A runtime that says that it has no seccomp gets no filter to ignore; one that says nothing of it has it."""
    parts = {"seccomp": {"enabled": False}, "apparmor": {"enabled": True}}
    built = features("crun", "1.21", json.dumps({"linux": parts}), KERNEL)
    assert (False, True, True) == tuple(f in built.supported for f in (Feature.SECCOMP, Feature.APPARMOR, Feature.SELINUX))
    assert OCI <= features("crun", "1.21", json.dumps({"linux": {"seccomp": {}}}), KERNEL).supported


def test_what_follows_from_them() -> None:
    """Mapped mounts bring user namespaces, and Status advertises these only with mapped mounts."""
    assert {Feature.USER_NAMESPACE} == UNMAPPED.supported - READONLY.supported
    assert READONLY.advertised == UNMAPPED.advertised
    mapped = {Feature.USER_NAMESPACE, Feature.IDMAP_MOUNTS}
    assert not Features().supported & (mapped | {Feature.RECURSIVE_READONLY_MOUNTS})
    assert mapped | {Feature.RECURSIVE_READONLY_MOUNTS} == BOTH.supported - Features().supported
    assert RuntimeHandlerFeatures(recursive_read_only_mounts=True, user_namespaces=True) == BOTH.advertised


@pytest.mark.parametrize(
    ("text", "expected"), [("1.1.5+ds1", (1, 1, 5)), ("1.8", (1, 8)), ("1.2.0-rc.1", (1, 2, 0)), ("", ()), ("dev", ())]
)
def test_versions(text: str, expected: tuple[int, ...]) -> None:
    """The leading numbers count, and nothing behind them."""
    assert expected == version_of(text)
