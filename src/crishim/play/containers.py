"""Converts one container of a manifest to a `PodContainer` (pure): probes, hooks, environment, mounts, security."""

import json
import posixpath
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from crishim.errors import InvalidArgument
from crishim.model.sandbox import PortMapping, Protocol
from crishim.model.security import Capability, ProfileType, SecurityProfile, SELinuxOption
from crishim.play.fields import Fields
from crishim.play.objects import Objects
from crishim.play.pod import ContainerSecurity, Handler, PodContainer, Probe, PullPolicy, Variable, VolumeMount
from crishim.play.resources import Demand, demand

_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_PROBES: Final = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOKS: Final = ("exec", "httpGet", "sleep")
_PROFILES: Final = {
    "RuntimeDefault": ProfileType.RUNTIME_DEFAULT,
    "Unconfined": ProfileType.UNCONFINED,
    "Localhost": ProfileType.LOCALHOST,
}


def container(fields: Fields, *, init: bool, host_network: bool, namespace: str, objects: Objects) -> PodContainer:
    """A container, or an init container, which may be a sidecar."""
    sidecar = init and fields.choice("restartPolicy", "", "Always") == "Always"
    for name in ("volumeDevices", "resizePolicy", "restartPolicyRules"):
        fields.refuse(name)
    image = fields.needed("image")
    lifecycle = fields.child("lifecycle")
    lifecycle.refuse("stopSignal")
    ports = [_port(one, host_network=host_network) for one in fields.children("ports")]
    named = {name: port.container_port for port, name in ports if name}
    env = [
        *(variable for item in fields.children("envFrom") for variable in _variables(item, namespace, objects)),
        *(variable for item in fields.children("env") for variable in _variable(item, namespace, objects)),
    ]
    one = PodContainer(
        name=fields.needed("name"),
        path=fields.path,
        image=image,
        pull=PullPolicy(fields.choice("imagePullPolicy", _default_pull(image), *PullPolicy)),
        command=fields.texts("command"),
        args=fields.texts("args"),
        working_dir=fields.text("workingDir"),
        env=tuple(env),
        ports=tuple(port for port, _ in ports),
        port_names=tuple(name for _, name in ports),
        demand=_demand(fields.child("resources")),
        mounts=tuple(_mount(item) for item in fields.children("volumeMounts")),
        security=_security(fields.child("securityContext")),
        liveness=_probe(fields, "livenessProbe", named),
        readiness=_probe(fields, "readinessProbe", named),
        startup=_probe(fields, "startupProbe", named),
        post_start=_hook(lifecycle.child("postStart"), named),
        pre_stop=_hook(lifecycle.child("preStop"), named),
        message_path=fields.text("terminationMessagePath", "/dev/termination-log"),
        message_from_log=fields.choice("terminationMessagePolicy", "File", "FallbackToLogsOnError") != "File",
        stdin=fields.flag("stdin"),
        stdin_once=fields.flag("stdinOnce"),
        tty=fields.flag("tty"),
        sidecar=sidecar,
        digest=f"{zlib.crc32(json.dumps(fields.raw, sort_keys=True).encode()):x}",
    )
    lifecycle.done()
    fields.done()
    if init and not sidecar and (one.liveness or one.readiness or one.startup or one.post_start or one.pre_stop):
        raise InvalidArgument(fields.path, "an init container that is not a sidecar can have neither probes nor hooks")
    return one


def selinux(fields: Fields) -> SELinuxOption | None:
    """`seLinuxOptions` of a security context."""
    if not fields.has("seLinuxOptions"):
        fields.skip("seLinuxOptions")
        return None
    label = fields.child("seLinuxOptions")
    option = SELinuxOption(label.text("user"), label.text("role"), label.text("type"), label.text("level"))
    label.done()
    return option


def seccomp(fields: Fields) -> SecurityProfile | None:
    """`seccompProfile` of a security context; the file of a Localhost profile is below the kubelet's own folder."""
    return _profile(fields, "seccompProfile")


def apparmor(fields: Fields) -> SecurityProfile | None:
    """`appArmorProfile` of a security context."""
    return _profile(fields, "appArmorProfile")


def _profile(fields: Fields, name: str) -> SecurityProfile | None:
    if not fields.has(name):
        fields.skip(name)
        return None
    profile = fields.child(name)
    kind = _PROFILES[profile.choice("type", *_PROFILES)]
    reference = profile.needed("localhostProfile") if kind is ProfileType.LOCALHOST else ""
    profile.done()
    return SecurityProfile(kind, reference)


def _default_pull(image: str) -> str:
    name = image.partition("@")[0]
    tag = name.rpartition("/")[2].partition(":")[2]
    return PullPolicy.ALWAYS if "@" not in image and tag in {"", "latest"} else PullPolicy.IF_NOT_PRESENT


def _demand(fields: Fields) -> Demand:
    fields.refuse("claims")
    demanded = demand(fields.quantities("requests"), fields.quantities("limits"), fields.path)
    fields.done()
    return demanded


def _port(fields: Fields, *, host_network: bool) -> tuple[PortMapping, str]:
    port = fields.number("containerPort", least=1)
    mapping = PortMapping(
        protocol=Protocol[fields.choice("protocol", "TCP", "UDP", "SCTP")],
        container_port=port,
        host_port=fields.number("hostPort") or (port if host_network else 0),
        host_ip=fields.text("hostIP"),
    )
    name = fields.text("name")
    fields.done()
    return mapping, name


def _variable(fields: Fields, namespace: str, objects: Objects) -> Iterator[Variable]:
    """One variable, or none if it is optional and its source does not exist."""
    source, name = fields.child("valueFrom"), fields.needed("name")
    reference = source.child("fieldRef")
    field = reference.needed("fieldPath") if source.has("fieldRef") else ""
    reference.choice("apiVersion", "v1")
    reference.done()
    values: list[str | None] = []
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if source.has(key):
            values.append(_value(source.child(key), kind, namespace, objects))
    source.done()
    variable = Variable(name=name, value=fields.text("value"), field=field, path=fields.path)
    fields.done()
    if not values:
        yield variable
    elif values[0] is not None:
        yield Variable(name=name, value=values[0], literal=True, path=fields.path)


def _value(fields: Fields, kind: str, namespace: str, objects: Objects) -> str | None:
    values = objects.find(kind, namespace, fields, fields.needed("name"))
    key, optional = fields.needed("key"), fields.flag("optional")
    fields.done()
    if values is None or (key not in values and optional):
        return None
    if key not in values:
        raise InvalidArgument(fields.at("key"), f"is not a key of it: {key!r}")
    return _text(values[key], fields.path)


def _variables(fields: Fields, namespace: str, objects: Objects) -> Iterator[Variable]:
    """Every key of a ConfigMap or Secret; one that is not a valid variable name is skipped, as in the kubelet."""
    prefix = fields.text("prefix")
    for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
        if fields.has(key):
            reference = fields.child(key)
            values = objects.find(kind, namespace, reference, reference.needed("name"))
            reference.done()
            for name, value in (values or {}).items():
                if "=" not in name:
                    yield Variable(name=prefix + name, value=_text(value, reference.path), literal=True, path=reference.path)
    fields.done()


def _text(value: bytes, path: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(path, "has a value that is not text") from error
    if "\0" in text:
        raise InvalidArgument(path, "has a value that is not text")
    return text


def _mount(fields: Fields) -> VolumeMount:
    for name in ("recursiveReadOnly", "subPathExpr"):
        fields.refuse(name)
    sub_path = fields.text("subPath")
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        raise InvalidArgument(fields.at("subPath"), "must stay below the volume")
    mount = VolumeMount(
        volume=fields.needed("name"),
        container_path=fields.needed("mountPath"),
        readonly=fields.flag("readOnly"),
        sub_path=posixpath.normpath(sub_path) if sub_path else "",
        propagation=fields.choice("mountPropagation", "None", "HostToContainer", "Bidirectional"),
    )
    fields.done()
    return mount


def _security(fields: Fields) -> ContainerSecurity:
    fields.refuse("windowsOptions")
    caps = fields.child("capabilities")
    capability = Capability(caps.texts("add"), caps.texts("drop"))
    caps.done()
    security = ContainerSecurity(
        run_as_user=fields.optional_number("runAsUser"),
        run_as_group=fields.optional_number("runAsGroup"),
        run_as_non_root=fields.flag("runAsNonRoot") if fields.has("runAsNonRoot") else None,
        privileged=fields.flag("privileged"),
        readonly_rootfs=fields.flag("readOnlyRootFilesystem"),
        allow_escalation=fields.flag("allowPrivilegeEscalation", default=True),
        unmasked_proc=fields.choice("procMount", "Default", "Unmasked") == "Unmasked",
        capabilities=capability,
        selinux=selinux(fields),
        seccomp=seccomp(fields),
        apparmor=apparmor(fields),
    )
    fields.skip("runAsNonRoot")
    fields.done()
    if security.privileged and not security.allow_escalation:
        raise InvalidArgument(fields.at("allowPrivilegeEscalation"), "must not be false with privileged")
    return security


def _probe(fields: Fields, name: str, ports: Mapping[str, int]) -> Probe | None:
    probe = fields.child(name)
    if not fields.has(name):
        return None
    handler = _handler(probe, ports, _PROBES)
    if handler is None:
        raise InvalidArgument(probe.path, f"must have one of {', '.join(_PROBES)}")
    parsed = Probe(
        initial_delay=probe.number("initialDelaySeconds"),
        timeout=probe.number("timeoutSeconds", 1, least=1),
        period=probe.number("periodSeconds", 10, least=1),
        successes=probe.number("successThreshold", 1, least=1),
        failures=probe.number("failureThreshold", 3, least=1),
        grace=probe.optional_number("terminationGracePeriodSeconds"),
        handler=handler,
    )
    probe.done()
    return parsed


def _hook(fields: Fields, ports: Mapping[str, int]) -> Handler | None:
    parsed = _handler(fields, ports, _HOOKS)
    fields.done()
    return parsed


def _handler(fields: Fields, ports: Mapping[str, int], known: tuple[str, ...]) -> Handler | None:
    kinds = [kind for kind in _HANDLERS if fields.has(kind)]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise InvalidArgument(fields.path, f"must have only one of {', '.join(kinds)}")
    inner = fields.child(kinds[0])
    if kinds[0] not in known:
        raise InvalidArgument(inner.path, f"is not supported; known: {', '.join(known)}")
    path = inner.text("path", "/") if kinds[0] == "httpGet" else "/"
    is_http, has_port = kinds[0] == "httpGet", kinds[0] in {"httpGet", "tcpSocket", "grpc"}
    handler = Handler(
        kind=kinds[0],
        path=inner.path,
        command=inner.texts("command") if kinds[0] == "exec" else (),
        seconds=inner.number("seconds") if kinds[0] == "sleep" else 0,
        port=inner.port("port", ports) if has_port else 0,
        host=inner.text("host") if has_port and kinds[0] != "grpc" else "",
        scheme=inner.choice("scheme", "HTTP", "HTTPS") if is_http else "HTTP",
        url_path=path if path.startswith("/") else f"/{path}",
        headers=tuple(_header(item) for item in inner.children("httpHeaders")) if is_http else (),
        service=inner.text("service") if kinds[0] == "grpc" else "",
    )
    inner.done()
    return handler


def _header(fields: Fields) -> tuple[str, str]:
    header = fields.needed("name"), fields.text("value")
    fields.done()
    return header
