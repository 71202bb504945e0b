"""crishim: CRI requests mapped onto a ten-verb backend.

The names here are for authors of backends: protocols, values, ids, errors. Each is loaded at its first use, so importing this
package is cheap. Parts with further dependencies are imported by name: `crishim.cri` (protobuf), `crishim.server` (gRPC),
`crishim.shimv2` (ttrpc), `crishim.testing` (fakes and the conformance suite), `crishim.app`.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
"""True for type checkers alone. Importing `typing` for it would double what `import crishim` costs."""

if TYPE_CHECKING:
    from typing import Any

    from crishim.errors import (
        Aborted,
        AlreadyExists,
        Code,
        CrishimError,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        Internal,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        PullError,
        PullReason,
        ResourceExhausted,
        Unavailable,
        Unimplemented,
    )
    from crishim.interfaces.backend import Backend, BackendContext, BackendInfo, NetnsSource
    from crishim.interfaces.capabilities import (
        ByteReader,
        ByteStream,
        ByteWriter,
        ProcessIO,
        SupportsAttach,
        SupportsCheckpoint,
        SupportsClose,
        SupportsExec,
        SupportsLeftovers,
        SupportsLogReopen,
        SupportsPause,
        SupportsPortForward,
        SupportsSandboxUpdate,
        SupportsSandboxWait,
        SupportsStats,
        SupportsUpdate,
        capabilities,
    )
    from crishim.interfaces.keeper import Keeper, KeepRequest
    from crishim.interfaces.oci_runtime import OciRuntime
    from crishim.interfaces.plugin import Plugin
    from crishim.interfaces.seats import Finding, ImageService, PodNetwork, RecordStore, RootfsProvider
    from crishim.lifecycle.resolve import resolve
    from crishim.logs.stdio import ContainerStdio
    from crishim.model.container import ContainerCreated, ContainerSpec, ContainerState, Inventory, ObservedContainer
    from crishim.model.features import Feature
    from crishim.model.process import ExecSpec, Exit
    from crishim.model.resources import Resources
    from crishim.model.sandbox import ObservedSandbox, SandboxSpec, SandboxStarted
    from crishim.model.stats import ContainerUsage, SandboxUsage
    from crishim.model.values import ContainerId, ImageId, SandboxId
    from crishim.service.services import Services

_HOMES = {
    "Aborted": "errors",
    "AlreadyExists": "errors",
    "Code": "errors",
    "CrishimError": "errors",
    "DataLoss": "errors",
    "DeadlineExceeded": "errors",
    "FailedPrecondition": "errors",
    "Internal": "errors",
    "InvalidArgument": "errors",
    "NotFound": "errors",
    "PermissionDenied": "errors",
    "PullError": "errors",
    "PullReason": "errors",
    "ResourceExhausted": "errors",
    "Unavailable": "errors",
    "Unimplemented": "errors",
    "Backend": "interfaces.backend",
    "BackendContext": "interfaces.backend",
    "BackendInfo": "interfaces.backend",
    "NetnsSource": "interfaces.backend",
    "ByteReader": "interfaces.capabilities",
    "ByteStream": "interfaces.capabilities",
    "ByteWriter": "interfaces.capabilities",
    "ProcessIO": "interfaces.capabilities",
    "SupportsAttach": "interfaces.capabilities",
    "SupportsCheckpoint": "interfaces.capabilities",
    "SupportsClose": "interfaces.capabilities",
    "SupportsExec": "interfaces.capabilities",
    "SupportsLogReopen": "interfaces.capabilities",
    "SupportsLeftovers": "interfaces.capabilities",
    "SupportsPause": "interfaces.capabilities",
    "SupportsPortForward": "interfaces.capabilities",
    "SupportsSandboxUpdate": "interfaces.capabilities",
    "SupportsSandboxWait": "interfaces.capabilities",
    "SupportsStats": "interfaces.capabilities",
    "SupportsUpdate": "interfaces.capabilities",
    "capabilities": "interfaces.capabilities",
    "Finding": "interfaces.seats",
    "ImageService": "interfaces.seats",
    "RootfsProvider": "interfaces.seats",
    "PodNetwork": "interfaces.seats",
    "KeepRequest": "interfaces.keeper",
    "Keeper": "interfaces.keeper",
    "OciRuntime": "interfaces.oci_runtime",
    "Plugin": "interfaces.plugin",
    "RecordStore": "interfaces.seats",
    "resolve": "lifecycle.resolve",
    "ContainerStdio": "logs.stdio",
    "ContainerCreated": "model.container",
    "ContainerSpec": "model.container",
    "ContainerState": "model.container",
    "ObservedContainer": "model.container",
    "Feature": "model.features",
    "ContainerId": "model.values",
    "ImageId": "model.values",
    "SandboxId": "model.values",
    "Inventory": "model.container",
    "ExecSpec": "model.process",
    "Exit": "model.process",
    "Resources": "model.resources",
    "ObservedSandbox": "model.sandbox",
    "SandboxSpec": "model.sandbox",
    "SandboxStarted": "model.sandbox",
    "ContainerUsage": "model.stats",
    "SandboxUsage": "model.stats",
    "Services": "service.services",
}

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Backend",
    "BackendContext",
    "BackendInfo",
    "ByteReader",
    "ByteStream",
    "ByteWriter",
    "Code",
    "ContainerCreated",
    "ContainerId",
    "ContainerSpec",
    "ContainerState",
    "ContainerStdio",
    "ContainerUsage",
    "CrishimError",
    "DataLoss",
    "DeadlineExceeded",
    "ExecSpec",
    "Exit",
    "FailedPrecondition",
    "Feature",
    "Finding",
    "ImageId",
    "ImageService",
    "Internal",
    "InvalidArgument",
    "Inventory",
    "KeepRequest",
    "Keeper",
    "NetnsSource",
    "NotFound",
    "ObservedContainer",
    "ObservedSandbox",
    "OciRuntime",
    "PermissionDenied",
    "Plugin",
    "PodNetwork",
    "ProcessIO",
    "PullError",
    "PullReason",
    "RecordStore",
    "ResourceExhausted",
    "Resources",
    "RootfsProvider",
    "SandboxId",
    "SandboxSpec",
    "SandboxStarted",
    "SandboxUsage",
    "Services",
    "SupportsAttach",
    "SupportsCheckpoint",
    "SupportsClose",
    "SupportsExec",
    "SupportsLeftovers",
    "SupportsLogReopen",
    "SupportsPause",
    "SupportsPortForward",
    "SupportsSandboxUpdate",
    "SupportsSandboxWait",
    "SupportsStats",
    "SupportsUpdate",
    "Unavailable",
    "Unimplemented",
    "__version__",
    "capabilities",
    "resolve",
]


def __getattr__(name: str) -> "Any":
    import importlib

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'crishim' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"crishim.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
