"""The objects beside pods in a manifest: ConfigMap, Secret, RuntimeClass (pure, but for PyYAML).

`load` splits a file; pods refer to these objects by name, within their namespace. A List stands for its items.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from crishim.errors import InvalidArgument, Unavailable
from crishim.model.values import EMPTY, FrozenDict
from crishim.play.fields import Fields

_KINDS: Final = ("Pod", "ConfigMap", "Secret", "RuntimeClass", "List")
_MODE: Final = 0o644

Files = tuple[tuple[str, bytes, int], ...]
"""Files of a volume: path, content, permissions."""


@attrs.frozen(kw_only=True)
class Objects:
    """The objects of a file: values by `kind/namespace/name` and key, and handlers by the RuntimeClass's name."""

    values: FrozenDict[str, FrozenDict[str, bytes]] = FrozenDict()
    handlers: FrozenDict[str, str] = EMPTY

    def handler(self, runtime_class: str) -> str:
        """The handler of a RuntimeClass; a class that is not in the file is taken as the handler's name."""
        return self.handlers.get(runtime_class, runtime_class)

    def find(self, kind: str, namespace: str, reference: Fields, name: str) -> Mapping[str, bytes] | None:
        """The values of the object that a reference with `name` and `optional` names; None if it is optional and does not
        exist.
        """
        optional = reference.flag("optional")
        known = self.values.get(f"{kind}/{namespace}/{name}")
        if known is None and not optional:
            raise InvalidArgument(reference.path, f"does not name a {kind} of this file: {name!r}")
        return known


@attrs.frozen(kw_only=True)
class Loaded:
    """A file: its pods as written, and the other objects."""

    pods: tuple[dict[str, Any], ...]
    objects: Objects


def load(text: str | bytes) -> Loaded:
    """The pods and objects in a YAML (or JSON) text with at least one pod. Raises `InvalidArgument`, or `Unavailable` without
    PyYAML.
    """
    try:
        import yaml
    except ImportError as error:
        raise Unavailable("reading manifests needs PyYAML: pip install 'crishim[cli]'") from error
    try:
        documents = list(_flat(list(yaml.safe_load_all(text))))
    except yaml.YAMLError as error:
        raise InvalidArgument("manifest", f"is not YAML: {error}") from error
    values: dict[str, FrozenDict[str, bytes]] = {}
    handlers: dict[str, str] = {}
    for document in documents:
        kind, fields = document["kind"], Fields(document)
        if kind in {"ConfigMap", "Secret"}:
            name, content = _content(fields, kind)
            if name in values:
                raise InvalidArgument("manifest", f"has {name} twice")
            values[name] = content
        elif kind == "RuntimeClass":
            name, handlers[name] = _runtime_class(fields, handlers)
    pods = tuple(document for document in documents if document["kind"] == "Pod")
    if not pods:
        raise InvalidArgument("manifest", "has no Pod")
    names: set[str] = set()
    for pod in pods:
        meta = Fields(pod).child("metadata")
        name = f"{meta.text('namespace', 'default')}/{meta.text('name')}"
        if name in names:
            raise InvalidArgument("manifest", f"has Pod {name} twice")
        names.add(name)
    return Loaded(pods=pods, objects=Objects(values=FrozenDict(values), handlers=FrozenDict(handlers)))


def files_of(fields: Fields, values: Mapping[str, bytes]) -> Files:
    """The files of a configMap or secret volume: every key, or the `items`."""
    mode = fields.number("defaultMode", _MODE)
    if not fields.has("items"):
        fields.skip("items")
        return tuple((key, value, mode) for key, value in values.items())
    files = []
    for item in fields.children("items"):
        key = item.needed("key")
        if key not in values:
            raise InvalidArgument(item.at("key"), f"is not a key of it: {key!r}")
        files.append((item.needed("path"), values[key], item.number("mode", mode)))
        item.done()
    return tuple(files)


def _flat(documents: list[Any]) -> Iterator[dict[str, Any]]:
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise InvalidArgument("manifest", "must consist of objects")
        if document.get("kind") not in _KINDS:
            raise InvalidArgument("kind", f"must be one of {', '.join(_KINDS)}")
        if document["kind"] == "List":
            yield from _flat(list(document.get("items") or ()))
        else:
            yield document


def _name(fields: Fields, version: str) -> tuple[str, str]:
    fields.choice("apiVersion", version)
    fields.skip("kind")
    meta = fields.child("metadata")
    name, namespace = meta.needed("name"), meta.text("namespace", "default")
    meta.skip("labels", "annotations", "creationTimestamp", "resourceVersion", "uid")
    meta.done()
    return name, namespace


def _content(fields: Fields, kind: str) -> tuple[str, FrozenDict[str, bytes]]:
    name, namespace = _name(fields, "v1")
    fields.skip("immutable", *(("type",) if kind == "Secret" else ()))
    texts, encoded = ("data", "binaryData") if kind == "ConfigMap" else ("stringData", "data")
    content = {key: _decoded(value, f"{fields.at(encoded)}.{key}") for key, value in fields.map(encoded).items()}
    content.update({key: value.encode() for key, value in fields.map(texts).items()})
    fields.done()
    return f"{kind}/{namespace}/{name}", FrozenDict(content)


def _decoded(value: str, path: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except binascii.Error as error:
        raise InvalidArgument(path, "is not base64") from error


def _runtime_class(fields: Fields, known: Mapping[str, str]) -> tuple[str, str]:
    name, _ = _name(fields, "node.k8s.io/v1")
    if name in known:
        raise InvalidArgument("manifest", f"has RuntimeClass {name} twice")
    handler = fields.needed("handler")
    for field in ("overhead", "scheduling"):
        fields.refuse(field)
    fields.done()
    return name, handler
