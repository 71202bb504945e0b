import base64
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.errors import InvalidArgument
from crishim.play import Node, Pod, load, parse
from crishim.play.configs import Start, container_config
from crishim.play.volumes import PodFolders

POD = """
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: here}
spec:
  runtimeClassName: fast
  securityContext: {fsGroup: 7}
  containers:
  - name: main
    image: image:1
    envFrom:
    - {prefix: C_, configMapRef: {name: settings}}
    - {secretRef: {name: none, optional: true}}
    env:
    - {name: C_colour, value: "$(C_mode)"}
    - {name: KEY, valueFrom: {secretKeyRef: {name: keys, key: token}}}
    - {name: MODE, valueFrom: {configMapKeyRef: {name: settings, key: mode}}}
    - {name: GONE, valueFrom: {configMapKeyRef: {name: settings, key: none, optional: true}}}
    volumeMounts:
    - {name: all, mountPath: /all}
    - {name: some, mountPath: /some}
    - {name: gone, mountPath: /gone}
  volumes:
  - {name: all, configMap: {name: settings}}
  - {name: some, secret: {secretName: keys, defaultMode: 256, items: [{key: token, path: a/b, mode: 384}, {key: raw, path: c}]}}
  - {name: gone, configMap: {name: none, optional: true}}
"""
OBJECTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: here}
data: {colour: red, mode: "$(HOME)"}
binaryData: {blob: AAE=}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: here}
type: Opaque
data: {token: dG9r, raw: AAE=}
stringData: {token: token}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: fast}
handler: kata
"""


def pod_of(text: str) -> Pod:
    file = load(text)
    return parse(file.pods[0], uid="uid-1", seen="2026-01-01T00:00:00Z", objects=file.objects)


def pod_without_binary() -> Pod:
    return pod_of(OBJECTS.replace("binaryData: {blob: AAE=}", "") + "---" + POD)


def test_a_file_is_taken_apart() -> None:
    """Pods come in the file's order, whatever stands beside them, and out of Lists."""
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\n"
    text = pod % "a" + "---\n" + OBJECTS + "---\n" + "kind: List\nitems: [{kind: Pod, metadata: {name: b}}]\n---\n"
    assert ["a", "b"] == [one["metadata"]["name"] for one in load(text).pods]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "manifest"),
        ("- 1\n", "manifest"),
        ("{", "manifest"),
        (OBJECTS, "manifest"),
        ("kind: Job\n", "kind"),
        (OBJECTS + "---" + OBJECTS + "---" + POD, "manifest"),
        (POD + "---" + OBJECTS.replace("Opaque", "Opaque\ncolour: red"), "colour"),
        (POD + "---" + OBJECTS.replace("dG9r", "no-base64!"), "data.token"),
        (POD + "---" + OBJECTS.replace("handler: kata", "handler: kata\noverhead: {x: 1}"), "overhead"),
    ],
)
def test_what_is_not_known_is_refused(text: str, field: str) -> None:
    """No pod, no YAML, other kinds, the same name twice, and fields that are not known are refused by their name."""
    with pytest.raises(InvalidArgument) as refused:
        load(text)
    assert field == refused.value.field


def test_variables_come_from_objects() -> None:
    """Values of envFrom come first, then those of env; values of objects are not expanded, and optional ones may be missing."""
    config = container_config(pod_without_binary(), pod_without_binary().containers[0], Node(), Start(image_id="i", token="t"))
    expected = {"C_colour": "$(HOME)", "C_mode": "$(HOME)", "KEY": "token", "MODE": "$(HOME)"}
    assert expected == {variable.key: variable.value for variable in config.envs}
    with pytest.raises(InvalidArgument) as refused:
        pod_of(OBJECTS + "---" + POD)
    assert "spec.containers[0].envFrom[0].configMapRef" == refused.value.field


def test_volumes_hold_what_objects_hold(tmp_path: Path) -> None:
    """Every key is a file, or the items by their paths and permissions; containers cannot write there.

    Their group is one of ours, since only root gives files to another.
    """
    pod = attrs.evolve(pod_without_binary(), security=attrs.evolve(pod_without_binary().security, fs_group=os.getegid()))
    node = Node(root=str(tmp_path / "kubelet"), logs=str(tmp_path / "logs"))
    PodFolders(pod, node).make()
    mounts = {
        mount.container_path: mount
        for mount in container_config(pod, pod.containers[0], node, Start(image_id="i", token="t")).mounts
    }
    files = {
        f"{at}/{path.relative_to(mounts[at].host_path)}": (path.read_bytes(), path.stat().st_mode & 0o777)
        for at in ("/all", "/some", "/gone")
        for path in Path(mounts[at].host_path).rglob("*")
        if path.is_file()
    }
    expected: dict[str, Any] = {
        "/all/colour": (b"red", 0o644),
        "/all/mode": (b"$(HOME)", 0o644),
        "/some/a/b": (b"token", 0o640),
        "/some/c": (base64.b64decode("AAE="), 0o440),
    }
    assert expected == files
    assert {True} == {mounts[at].readonly for at in ("/all", "/some", "/gone")}


def test_objects_belong_to_a_namespace() -> None:
    """A pod of another namespace does not see them."""
    with pytest.raises(InvalidArgument):
        pod_of(OBJECTS + "---" + POD.replace("namespace: here", "namespace: there"))


def test_a_runtime_class_names_its_handler() -> None:
    """A RuntimeClass of the file stands for its handler; any other name is the handler itself."""
    assert "kata" == pod_without_binary().handler
    assert (
        "other"
        == pod_of(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {runtimeClassName: other, containers: [{name: a, image: b}]}"
        ).handler
    )
