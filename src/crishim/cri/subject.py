"""What a request is about, for log lines and for traces: an id or name, and the pod."""

import contextlib
from typing import Any, Final, Self

import attrs

from crishim.errors import InvalidArgument
from crishim.interfaces.tracing import SpanAttributes
from crishim.model.values import ContainerId, SandboxId
from crishim.service.services import Services

CREATED: Final = {"RunPodSandbox": "sandbox.id", "CreateContainer": "container.id", "PullImage": "container.image.id"}
"""The attribute for the id that an RPC returns."""


@attrs.frozen(kw_only=True)
class RequestSubject:
    """The subject of one request. What it does not name, or what is unknown here, is empty.

    `name` is what a log line names: an id, an image reference, or `NAMESPACE/NAME` of a pod to be created.
    """

    name: str = ""
    sandbox_id: str = ""
    container_id: str = ""
    container_name: str = ""
    image: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""

    @classmethod
    def of(cls, request: Any, services: Services) -> Self:
        """The subject of a message. The pod of an id is looked up among the known ones."""
        container_id, sandbox_id = _text(request, "container_id"), _text(request, "pod_sandbox_id")
        image = _text(getattr(request, "image", None), "image")
        config = getattr(request, "config", None)
        pod: Any = getattr(getattr(request, "sandbox_config", config), "metadata", None)
        container_name = _text(getattr(config, "metadata", None), "name") if sandbox_id else ""
        if container_id or sandbox_id:
            with contextlib.suppress(InvalidArgument):  # an ambiguous prefix, which the call itself refuses
                if (found := services.pod_of(ContainerId(container_id), SandboxId(sandbox_id))) is not None:
                    pod, container_name = found[0], container_name or found[1]
        subject = cls(
            name=container_id or sandbox_id or image,
            sandbox_id=sandbox_id,
            container_id=container_id,
            container_name=container_name,
            image=image,
        )
        if not hasattr(pod, "namespace"):
            return subject
        name = subject.name or f"{pod.namespace}/{pod.name}"
        return attrs.evolve(subject, name=name, pod_namespace=pod.namespace, pod_name=pod.name, pod_uid=pod.uid)

    @property
    def pod(self) -> str:
        """`NAMESPACE/NAME`; empty without a pod."""
        return f"{self.pod_namespace}/{self.pod_name}" if self.pod_name else ""

    def attributes(self) -> SpanAttributes:
        """What is known, by the names of OpenTelemetry's semantic conventions; these have none for a sandbox."""
        named = {
            "sandbox.id": self.sandbox_id,
            "container.id": self.container_id,
            "container.name": self.container_name,
            "container.image.name": self.image,
            "k8s.namespace.name": self.pod_namespace,
            "k8s.pod.name": self.pod_name,
            "k8s.pod.uid": self.pod_uid,
        }
        return {name: value for name, value in named.items() if value}


def _text(message: Any, field: str) -> str:
    return str(getattr(message, field, ""))
