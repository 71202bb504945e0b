"""Parses a v1 Pod manifest to a `Pod` (pure). An unknown field raises `InvalidArgument` with its path.

Defaults are the API server's. Fields for the scheduler or the API server have no effect on a runtime and are ignored.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from crishim.errors import InvalidArgument
from crishim.model.sandbox import DNSConfig
from crishim.model.security import SupplementalGroupsPolicy
from crishim.model.values import FrozenDict
from crishim.play.containers import apparmor, container, seccomp, selinux
from crishim.play.fields import Fields
from crishim.play.objects import Objects, files_of
from crishim.play.pod import Pod, PodContainer, PodSecurity, RestartPolicy, Volume, VolumeKind
from crishim.play.resources import quantity

_HOSTNAME: Final = 63


def digest_of(manifest: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that change with the manifest: the uid of a static pod."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:32]


def parse(manifest: Mapping[str, Any], *, uid: str, seen: str, static_on: str = "", objects: Objects | None = None) -> Pod:
    """The pod that `manifest` describes, with this uid, first seen at the RFC 3339 time `seen`; it may refer to `objects`.

    `static_on` names the node of a static pod: its name then ends with the node's, and its uid is its hash.
    """
    top = Fields(manifest)
    top.choice("apiVersion", "v1")
    top.choice("kind", "Pod")
    top.skip("status")
    meta, spec = top.child("metadata"), top.child("spec")
    top.done()
    name = meta.needed("name") + (f"-{static_on}" if static_on else "")
    source = {"kubernetes.io/config.seen": seen, "kubernetes.io/config.source": "file" if static_on else "api"}
    if static_on:
        source["kubernetes.io/config.hash"] = uid
    annotations = FrozenDict({**meta.map("annotations"), **source})
    labels = meta.map("labels")
    namespace = meta.text("namespace", "default")
    meta.skip("creationTimestamp", "generateName", "resourceVersion", "uid", "finalizers", "ownerReferences")
    meta.done()
    known = {"name": name, "namespace": namespace, "uid": uid, "labels": labels, "annotations": annotations}
    return _spec(spec, objects or Objects(), static=bool(static_on), **known)


def _spec(spec: Fields, objects: Objects, *, static: bool, **known: Any) -> Pod:
    name = known["name"]
    spec.skip(
        "affinity", "automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets",
        "nodeName", "nodeSelector", "preemptionPolicy", "priority", "priorityClassName", "readinessGates", "schedulerName",
        "schedulingGates", "serviceAccount", "tolerations", "topologySpreadConstraints",
    )  # fmt: skip
    if not spec.flag("hostUsers", default=True):
        raise InvalidArgument("spec.hostUsers", "user namespaces are not supported by this kubelet")
    host_network = spec.flag("hostNetwork")
    hostname = spec.text("hostname") or name[:_HOSTNAME].rstrip("-.")
    shared: dict[str, Any] = {"host_network": host_network, "namespace": known["namespace"], "objects": objects}
    pod = Pod(
        **known,
        hostname=hostname,
        restart=RestartPolicy(spec.choice("restartPolicy", *RestartPolicy)),
        grace=spec.number("terminationGracePeriodSeconds", 30),
        deadline=spec.optional_number("activeDeadlineSeconds"),
        service_account=spec.text("serviceAccountName", "" if static else "default"),
        handler=objects.handler(spec.text("runtimeClassName")),
        host_network=host_network,
        host_pid=spec.flag("hostPID"),
        host_ipc=spec.flag("hostIPC"),
        share_pid=spec.flag("shareProcessNamespace"),
        dns_policy=spec.choice("dnsPolicy", "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
        dns=_dns(spec.child("dnsConfig")),
        host_aliases=tuple(_alias(one) for one in spec.children("hostAliases")),
        security=_security(spec.child("securityContext")),
        volumes=tuple(_volume(one, known["namespace"], objects) for one in spec.children("volumes")),
        inits=tuple(container(one, init=True, **shared) for one in spec.children("initContainers")),
        containers=tuple(container(one, init=False, **shared) for one in spec.children("containers")),
    )
    spec.done()
    return _consistent(pod)


def _consistent(pod: Pod) -> Pod:
    if not pod.containers:
        raise InvalidArgument("spec.containers", "is empty")
    if pod.share_pid and pod.host_pid:
        raise InvalidArgument("spec.shareProcessNamespace", "is set with hostPID")
    seen: set[str] = set()
    volumes = {volume.name for volume in pod.volumes}
    for one in pod.everyone:
        if one.name in seen:
            raise InvalidArgument(f"{one.path}.name", f"{one.name!r} is taken")
        seen.add(one.name)
        _mounts_are_known(one, volumes)
    return pod


def _mounts_are_known(one: PodContainer, volumes: set[str]) -> None:
    for number, mount in enumerate(one.mounts):
        if mount.volume not in volumes:
            raise InvalidArgument(f"{one.path}.volumeMounts[{number}].name", f"does not name a volume: {mount.volume!r}")


def _dns(fields: Fields) -> DNSConfig:
    options = []
    for option in fields.children("options"):
        name, value = option.needed("name"), option.text("value")
        option.done()
        options.append(f"{name}:{value}" if value else name)
    dns = DNSConfig(servers=fields.texts("nameservers"), searches=fields.texts("searches"), options=tuple(options))
    fields.done()
    return dns


def _alias(fields: Fields) -> tuple[str, tuple[str, ...]]:
    alias = fields.needed("ip"), fields.texts("hostnames")
    fields.done()
    return alias


def _security(fields: Fields) -> PodSecurity:
    sysctls = {}
    for sysctl in fields.children("sysctls"):
        sysctls[sysctl.needed("name")] = sysctl.text("value")
        sysctl.done()
    fields.choice("fsGroupChangePolicy", "Always", "OnRootMismatch")
    policy = fields.choice("supplementalGroupsPolicy", "Merge", "Strict")
    for name in ("windowsOptions", "seLinuxChangePolicy"):
        fields.refuse(name)
    security = PodSecurity(
        run_as_user=fields.optional_number("runAsUser"),
        run_as_group=fields.optional_number("runAsGroup"),
        run_as_non_root=fields.flag("runAsNonRoot") if fields.has("runAsNonRoot") else None,
        fs_group=fields.optional_number("fsGroup"),
        supplemental_groups=fields.numbers("supplementalGroups"),
        supplemental_groups_policy=SupplementalGroupsPolicy[policy.upper()],
        selinux=selinux(fields),
        seccomp=seccomp(fields),
        apparmor=apparmor(fields),
        sysctls=FrozenDict(sysctls),
    )
    fields.skip("runAsNonRoot")
    fields.done()
    return security


def _volume(fields: Fields, namespace: str, objects: Objects) -> Volume:
    name = fields.needed("name")
    if fields.has("hostPath"):
        host = fields.child("hostPath")
        volume = Volume(
            name=name,
            kind=VolumeKind.HOST_PATH,
            path=host.path,
            host_path=host.needed("path"),
            host_type=host.choice(
                "type", "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"
            ),
        )
        host.done()
    elif fields.has("downwardAPI"):
        volume = _downward(name, fields.child("downwardAPI"))
    elif fields.has("configMap"):
        source = fields.child("configMap")
        volume = _from_manifest(
            name, source, VolumeKind.CONFIG_MAP, objects.find("ConfigMap", namespace, source, source.needed("name"))
        )
    elif fields.has("secret"):
        source = fields.child("secret")
        volume = _from_manifest(
            name, source, VolumeKind.SECRET, objects.find("Secret", namespace, source, source.needed("secretName"))
        )
    else:
        empty = fields.child("emptyDir")
        fields.done()
        size = empty.text("sizeLimit")
        volume = Volume(
            name=name,
            kind=VolumeKind.EMPTY_DIR,
            path=empty.path,
            memory=empty.choice("medium", "", "Memory") == "Memory",
            size=int(quantity(size, empty.at("sizeLimit"))) if size else 0,
        )
        empty.done()
    fields.done()
    return volume


def _from_manifest(name: str, fields: Fields, kind: VolumeKind, values: Mapping[str, bytes] | None) -> Volume:
    contents = () if values is None else files_of(fields, values)
    fields.skip("items", "defaultMode")
    fields.done()
    return Volume(name=name, kind=kind, path=fields.path, contents=contents)


def _downward(name: str, fields: Fields) -> Volume:
    files = []
    for item in fields.children("items"):
        reference = item.child("fieldRef")
        files.append((item.needed("path"), reference.needed("fieldPath")))
        reference.choice("apiVersion", "v1")
        reference.done()
        item.done()
    fields.done()
    return Volume(name=name, kind=VolumeKind.DOWNWARD_API, path=fields.path, files=tuple(files))
