"""Environment variables, $(VAR) in values and commands, and the pod's fields to which a manifest may refer (pure)."""

import re
from collections.abc import Mapping
from typing import Final

import attrs

from crishim.errors import InvalidArgument
from crishim.model.values import FrozenDict

_REFERENCE: Final = re.compile(r"\$(?:\$|\(([^)]*)\))")
_KEYED: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced; `$$` is one dollar, and an unknown name stays unchanged."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else variables.get(name, match.group())

    return _REFERENCE.sub(value, text)


@attrs.frozen(kw_only=True)
class PodFacts:
    """The values of a running pod."""

    name: str
    namespace: str
    uid: str
    labels: FrozenDict[str, str]
    annotations: FrozenDict[str, str]
    service_account: str
    node: str
    node_ips: tuple[str, ...]
    ips: tuple[str, ...]

    def field(self, name: str, path: str) -> str:
        """The value of a `fieldRef`. Raises `InvalidArgument` for an unknown one."""
        if match := _KEYED.fullmatch(name):
            return (self.labels if match.group(1) == "labels" else self.annotations).get(match.group(2), "")
        known = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self.uid,
            "metadata.labels": _lines(self.labels),
            "metadata.annotations": _lines(self.annotations),
            "spec.nodeName": self.node,
            "spec.serviceAccountName": self.service_account,
            "status.hostIP": next(iter(self.node_ips), ""),
            "status.hostIPs": ",".join(self.node_ips),
            "status.podIP": next(iter(self.ips), ""),
            "status.podIPs": ",".join(self.ips),
        }
        if name not in known:
            raise InvalidArgument(path, f"{name!r} is not supported by this kubelet")
        return known[name]


def _lines(items: Mapping[str, str]) -> str:
    escaped = {key: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for key, value in items.items()}
    return "\n".join(f'{key}="{escaped[key]}"' for key in sorted(escaped))
