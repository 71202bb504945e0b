"""The content of a checkpoint archive: the names and JSON texts that containerd, CRI-O and checkpointctl use; pure.

An archive is a tar file with these at its root (checkpointctl, lib/metadata.go; CRI-O, internal/lib/checkpoint.go):

| name | what |
|---|---|
| `config.dump` | JSON: id, name, image, times (`ContainerConfig` of checkpointctl) |
| `spec.dump` | the container's config.json |
| `status.dump` | JSON: the container's ContainerStatus |
| `checkpoint/` | CRIU's images, with the runtime's `descriptors.json` |
| `rootfs-diff.tar` | the files that the container has written, with `.wh..wh..opq` in folders that hide the image's |
| `deleted.files` | JSON: the image's paths that the container has deleted |
| `bind.mounts` | JSON: the mounts of the node's files |
| `network.status` | JSON: the addresses of the pod |
| `dump.log`, `stats-dump` | CRIU's log and statistics of the dump |
| `container.log` | the container's log |

A pod's checkpoint is a folder with an archive for each container and a manifest.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from crishim.errors import DataLoss
from crishim.model.container import CheckpointOrigin, ContainerStatus
from crishim.model.runtime import PodCheckpoint
from crishim.model.sandbox import PodSandboxMetadata
from crishim.model.values import SandboxId

CONFIG: Final = "config.dump"
SPEC: Final = "spec.dump"
STATUS: Final = "status.dump"
IMAGES: Final = "checkpoint"
DIFF: Final = "rootfs-diff.tar"
DELETED: Final = "deleted.files"
BINDS: Final = "bind.mounts"
NETWORK: Final = "network.status"
LOG: Final = "container.log"
INVENTORY: Final = f"{IMAGES}/inventory.img"
"""CRIU writes it last (crtools, cr_dump_finish): without it the dump is incomplete."""

MANIFEST: Final = "pod-checkpoint.json"
MANIFEST_VERSION: Final = 1
"""The file of a pod's checkpoint that is written last, and the version of its format."""

NEEDED: Final = frozenset({CONFIG, SPEC, INVENTORY})
"""The required members of an archive."""


def config_dump(status: ContainerStatus, runtime: str, now: int) -> dict[str, Any]:
    """The content of `config.dump`. `now`: nanoseconds since the epoch."""
    return {
        "id": status.id,
        "name": status.metadata.name,
        "rootfsImage": status.image.image,
        "rootfsImageName": status.image.image,
        "rootfsImageRef": status.image_ref,
        "runtime": runtime,
        "createdTime": _time(status.created_at),
        "checkpointedTime": _time(now),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": False,
    }


def status_dump(status: ContainerStatus) -> dict[str, Any]:
    """The content of `status.dump`, with the names that Go's JSON encoding gives CRI's fields."""
    return {
        "id": status.id,
        "metadata": {"name": status.metadata.name, "attempt": status.metadata.attempt},
        "state": int(status.state),
        "created_at": status.created_at,
        "started_at": status.started_at,
        "image": {"image": status.image.image, "user_specified_image": status.image.user_specified_image},
        "image_ref": status.image_ref,
        "image_id": status.image_id,
        "labels": dict(status.labels),
        "annotations": dict(status.annotations),
        "log_path": status.log_path,
    }


def bind_mounts(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """The content of `bind.mounts`: source and destination of each bind mount of a config.json."""
    return [
        {"source": mount["source"], "destination": mount["destination"]}
        for mount in config.get("mounts", ())
        if {"bind", "rbind"} & set(mount.get("options", ()))
    ]


def network_status(addresses: Sequence[str]) -> dict[str, Any]:
    """The content of `network.status`, in podman's format."""
    return {"pod": {"interfaces": {"eth0": {"subnets": [{"ipnet": address} for address in addresses]}}}}


def read_origin(text: bytes, where: str) -> CheckpointOrigin:
    """Parse `config.dump`. Raises `DataLoss` with a message that begins with `where`."""
    try:
        content = json.loads(text)
        return CheckpointOrigin(
            name=str(content["name"]),
            image=str(content.get("rootfsImageName") or content["rootfsImage"]),
            image_ref=str(content.get("rootfsImageRef", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataLoss(f"{where}: {CONFIG} is invalid: {error!r}") from error


def manifest(checkpoint: PodCheckpoint, sizes: Mapping[str, int], now: int) -> dict[str, Any]:
    """The manifest of a pod's checkpoint; `sizes`: bytes of each archive, by container name."""
    metadata = checkpoint.metadata
    return {
        "version": MANIFEST_VERSION,
        "createdTime": _time(now),
        "sandbox": {
            "id": checkpoint.sandbox_id,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "attempt": metadata.attempt,
        },
        "containers": [
            {
                "name": one.name,
                "image": one.image,
                "imageRef": one.image_ref,
                "archive": file_of(one.name),
                "size": sizes[one.name],
            }
            for one in checkpoint.containers
        ],
    }


def read_manifest(text: bytes, where: str) -> tuple[PodCheckpoint, dict[str, int]]:
    """Parse a manifest; returns the sizes of the archives too. Raises `DataLoss` with a message that begins with `where`."""
    try:
        content = json.loads(text)
        if (version := content["version"]) != MANIFEST_VERSION:
            raise DataLoss(f"{where} has version {version}; this program supports {MANIFEST_VERSION}")
        pod = content["sandbox"]
        checkpoint = PodCheckpoint(
            sandbox_id=SandboxId(pod["id"]),
            metadata=PodSandboxMetadata(pod["name"], pod["namespace"], pod["uid"], int(pod["attempt"])),
            containers=tuple(
                CheckpointOrigin(name=str(one["name"]), image=str(one["image"]), image_ref=str(one["imageRef"]))
                for one in content["containers"]
            ),
        )
        return checkpoint, {str(one["name"]): int(one["size"]) for one in content["containers"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataLoss(f"{where} is not a manifest: {error!r}") from error


def file_of(container: str) -> str:
    """The file name of a container's archive in a pod's checkpoint."""
    return f"{container}.tar"


def _time(nanoseconds: int) -> str:
    """A time in RFC 3339, as Go parses it."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
