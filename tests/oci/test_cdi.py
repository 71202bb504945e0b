"""Devices of the Container Device Interface."""

import json
from pathlib import Path
from typing import Any

import pytest

from crishim.errors import InvalidArgument
from crishim.oci.cdi import Described, described, inject, wanted
from crishim.oci.facts import DeviceNode
from crishim.pods.sources import cdi_files

GPU = {
    "cdiVersion": "0.6.0",
    "kind": "example.com/gpu",
    "containerEdits": {"env": ["DRIVER=1"], "mounts": [{"hostPath": "/usr/lib/gpu", "containerPath": "/usr/lib/gpu"}]},
    "devices": [
        {
            "name": "one",
            "containerEdits": {
                "env": ["GPU=one", "PATH=/gpu"],
                "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "uid": 5}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/link", "args": ["link", "it"]}],
                "additionalGids": [44, 0],
            },
        },
        {"name": "two", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu1", "type": "c", "major": 9, "minor": 1}]}},
        {"name": "odd", "containerEdits": {"hooks": [{"hookName": "never", "path": "/x"}]}},
        {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/not-there"}]}},
    ],
}


def config() -> dict[str, Any]:
    """As much of a config.json as a device can change."""
    return {
        "process": {"env": ["PATH=/bin"], "user": {"additionalGids": [44]}},
        "mounts": [{"destination": "/proc"}, {"destination": "/a/b/c/d/e"}],
        "linux": {"resources": {"devices": [{"allow": False, "access": "rwm"}]}},
    }


def find(source: str, path: str, access: str) -> DeviceNode | None:
    """/dev/null is the only device there is."""
    return DeviceNode(path=path, kind="c", major=1, minor=3, access=access) if source == "/dev/null" else None


def test_the_edits_of_two_devices() -> None:
    """Common edits are applied once, variables replace others of their name, nodes are created and allowed, mounts stay
    sorted.
    """
    edited = config()
    inject(edited, ["example.com/gpu=one", "example.com/gpu=two"], [described(GPU, 0)], find)
    assert ["DRIVER=1", "GPU=one", "PATH=/gpu"] == edited["process"]["env"]
    assert [44] == edited["process"]["user"]["additionalGids"]
    assert [("/dev/gpu0", 1, 3, 5), ("/dev/gpu1", 9, 1, 0)] == [
        (node["path"], node["major"], node["minor"], node["uid"]) for node in edited["linux"]["devices"]
    ]
    assert [(1, 3), (9, 1)] == [(rule["major"], rule["minor"]) for rule in edited["linux"]["resources"]["devices"][1:]]
    assert ["/proc", "/usr/lib/gpu", "/a/b/c/d/e"] == [mount["destination"] for mount in edited["mounts"]]
    assert ["rbind", "rprivate"] == edited["mounts"][1]["options"]
    assert {"createContainer": [{"path": "/bin/link", "args": ["link", "it"]}]} == edited["hooks"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("example.com/gpu=three", "no file"),
        ("other.com/gpu=one", "no file"),
        ("gpu", "qualified"),
        ("example.com/gpu=odd", "never"),
        ("example.com/gpu=gone", "/dev/not-there"),
    ],
)
def test_what_cannot_be_had_is_refused(name: str, why: str) -> None:
    """A device without a description, or with impossible edits, is refused by its field."""
    with pytest.raises(InvalidArgument, match=why) as caught:
        inject(config(), [name], [described(GPU, 0)], find)
    assert str(caught.value.field).startswith("config.CDI_devices")


def test_priorities() -> None:
    """A file of a later folder goes before, and two of the same folder make a device unusable."""
    other = {**GPU, "containerEdits": {}, "devices": [{"name": "one", "containerEdits": {"env": ["GPU=other"]}}]}
    edited = config()
    inject(edited, ["example.com/gpu=one"], [described(GPU, 0), described(other, 1)], find)
    assert ["PATH=/bin", "GPU=other"] == edited["process"]["env"]
    with pytest.raises(InvalidArgument, match="several"):
        inject(config(), ["example.com/gpu=one"], [described(GPU, 0), described(other, 0)], find)


def test_who_asks() -> None:
    """Names are from the field and from annotations, without duplicates."""
    annotations = {"cdi.k8s.io/plugin": "a.b/c=2, a.b/c=1", "other": "a.b/c=3"}
    assert ("a.b/c=1", "a.b/c=2") == wanted(["a.b/c=1"], annotations)


def test_files(tmp_path: Path) -> None:
    """JSON and YAML are read, in the order of the folders; of what cannot be used there is the reason, with the file's name."""
    first, second = tmp_path / "etc", tmp_path / "run"
    first.mkdir()
    second.mkdir()
    (first / "a.json").write_text('{"cdiVersion": "0.5.0", "kind": "a.b/c", "devices": [{"name": "d"}]}')
    (second / "b.yaml").write_text("cdiVersion: 0.5.0\nkind: x.y/z\n")
    for name, text in (("c.json", "{"), ("d.yaml", "a: ["), ("e.json", "[]"), ("f.json", '{"kind": "a.b/c"}'), ("g.txt", "")):
        (second / name).write_text(text)
    none: dict[str, Any] = {}
    found = cdi_files((first, second))
    assert (
        Described(kind="a.b/c", priority=0, common=none, devices={"d": none}),
        Described(kind="x.y/z", priority=1, common=none, devices=none),
    ) == found[:2]
    assert [f"{second}/{name}" for name in ("c.json", "d.yaml", "e.json", "f.json")] == [
        file.problem.partition(":")[0] for file in found[2:]
    ]
    assert () == cdi_files((tmp_path / "none",))


@pytest.mark.parametrize(
    ("edits", "problem"),
    [
        ({"mounts": [{"hostPath": "/a", "containerPath": "/b"}, {"containerPath": "/b"}]}, "mounts[1].hostPath is missing"),
        ({"deviceNodes": [{"path": "/dev/x", "major": "9"}]}, "deviceNodes[0].major must be a whole number, not '9'"),
        ({"env": "A=b"}, "env must be a list, not 'A=b'"),
        ({"hooks": [{"path": "/bin/x"}]}, "hooks[0].hookName is missing"),
        ({"hooks": [{"hookName": "createContainer", "path": "/x", "args": [1]}]}, "hooks[0].args[0] must be a text, not 1"),
        ({"additionalGids": [True]}, "additionalGids[0] must be a whole number, not True"),
        ({"intelRdt": "x"}, "intelRdt must be an object, not 'x'"),
        (["x"], "must be an object, not ['x']"),
    ],
)
def test_a_malformed_file(tmp_path: Path, edits: Any, problem: str) -> None:
    """The refusal of a device names the file and the field that violate the specification (CDI, JSON schema)."""
    content = {"cdiVersion": "0.6.0", "kind": "a.b/c", "devices": [{"name": "good"}, {"name": "bad", "containerEdits": edits}]}
    (tmp_path / "vendor.json").write_text(json.dumps(content))
    with pytest.raises(InvalidArgument) as refused:
        inject(config(), ["a.b/c=good"], cdi_files((tmp_path,)), find)
    field = f"devices[1].containerEdits{'' if problem.startswith('must') else '.'}"
    said = f"{tmp_path}/vendor.json: {field}{' ' if field[-1] == 's' else ''}{problem}"
    assert f"config.CDI_devices[0].name: unresolvable CDI device a.b/c=good: it is described by no file; {said}" == str(
        refused.value
    )
