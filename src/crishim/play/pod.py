"""The values of a Pod manifest (pure). `parse` is in `manifest`.

`path` is the place in the manifest, for errors that are found later.
"""

import enum

import attrs

from crishim.model.sandbox import DNSConfig, PortMapping
from crishim.model.security import Capability, SecurityProfile, SELinuxOption, SupplementalGroupsPolicy
from crishim.model.values import EMPTY, FrozenDict
from crishim.play.resources import Demand


class RestartPolicy(enum.StrEnum):
    """Which exited containers are restarted."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"

    def restarts(self, code: int) -> bool:
        """Whether a container that exited with `code` is started again."""
        return self is RestartPolicy.ALWAYS or (self is RestartPolicy.ON_FAILURE and code != 0)


class PullPolicy(enum.StrEnum):
    """When an image is pulled."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


@attrs.frozen(kw_only=True)
class Handler:
    """The action of a probe or hook, by its kind: `exec` has a command; `httpGet` and `tcpSocket` a port, and a host if it is
    not the pod; `grpc` a port and a service; `sleep` seconds. `path` is its place in the manifest, `url_path` the request's.
    """

    kind: str
    path: str
    command: tuple[str, ...] = ()
    seconds: int = 0
    port: int = 0
    host: str = ""
    scheme: str = "HTTP"
    url_path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    service: str = ""


@attrs.frozen(kw_only=True)
class Probe:
    """A probe; times are seconds, thresholds are consecutive results."""

    handler: Handler
    initial_delay: int = 0
    timeout: int = 1
    period: int = 10
    successes: int = 1
    failures: int = 3
    grace: int | None = None


@attrs.frozen(kw_only=True)
class Variable:
    """An environment variable: a value with `$(NAME)` in it, or (`literal`) without, or the name of a field of the pod."""

    name: str
    value: str = ""
    literal: bool = False
    field: str = ""
    path: str


@attrs.frozen(kw_only=True)
class VolumeMount:
    """The mount of a volume, or of a path in it, in a container."""

    volume: str
    container_path: str
    readonly: bool = False
    sub_path: str = ""
    propagation: str = "None"


class VolumeKind(enum.StrEnum):
    """The supported volumes; the value is the kubelet's folder for them."""

    EMPTY_DIR = "kubernetes.io~empty-dir"
    DOWNWARD_API = "kubernetes.io~downward-api"
    CONFIG_MAP = "kubernetes.io~configmap"
    SECRET = "kubernetes.io~secret"  # noqa: S105 - a folder
    HOST_PATH = ""

    @property
    def from_manifest(self) -> bool:
        """Whether its files come from the manifest, and are read-only for containers."""
        return self in {VolumeKind.DOWNWARD_API, VolumeKind.CONFIG_MAP, VolumeKind.SECRET}


@attrs.frozen(kw_only=True)
class Volume:
    """A volume of the pod.

    It is an empty folder, on disk or (`memory`) in memory with at most `size` bytes (0 for no limit); files with fields of the
    pod, by path and field; `contents` of a ConfigMap or Secret, by path, content and permissions; or `host_path`, which must
    exist as `host_type` requires.
    """

    name: str
    kind: VolumeKind
    path: str
    memory: bool = False
    size: int = 0
    files: tuple[tuple[str, str], ...] = ()
    contents: tuple[tuple[str, bytes, int], ...] = ()
    host_path: str = ""
    host_type: str = ""


@attrs.frozen(kw_only=True)
class ContainerSecurity:
    """A container's security context, not yet merged with the pod's; None for unset fields."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    privileged: bool = False
    readonly_rootfs: bool = False
    allow_escalation: bool = True
    unmasked_proc: bool = False
    capabilities: Capability = Capability()
    selinux: SELinuxOption | None = None
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None


@attrs.frozen(kw_only=True)
class PodContainer:
    """A container of the manifest. `sidecar` is an init container that runs beside the others."""

    name: str
    path: str
    image: str
    pull: PullPolicy
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[Variable, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    port_names: tuple[str, ...] = ()
    demand: Demand = Demand()
    mounts: tuple[VolumeMount, ...] = ()
    security: ContainerSecurity = ContainerSecurity()
    liveness: Probe | None = None
    readiness: Probe | None = None
    startup: Probe | None = None
    post_start: Handler | None = None
    pre_stop: Handler | None = None
    message_path: str = "/dev/termination-log"
    message_from_log: bool = False
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    sidecar: bool = False
    digest: str = ""


@attrs.frozen(kw_only=True)
class PodSecurity:
    """The pod's security context: for the sandbox, and as the default of containers."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    selinux: SELinuxOption | None = None
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    sysctls: FrozenDict[str, str] = EMPTY


@attrs.frozen(kw_only=True)
class Pod:
    """A pod in a kubelet: the manifest, its uid, and the annotations of its source."""

    name: str
    namespace: str
    uid: str
    labels: FrozenDict[str, str] = EMPTY
    annotations: FrozenDict[str, str] = EMPTY
    hostname: str
    restart: RestartPolicy = RestartPolicy.ALWAYS
    grace: int = 30
    deadline: int | None = None
    service_account: str = ""
    handler: str = ""
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    share_pid: bool = False
    dns_policy: str = "ClusterFirst"
    dns: DNSConfig = DNSConfig()
    host_aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()
    security: PodSecurity = PodSecurity()
    volumes: tuple[Volume, ...] = ()
    inits: tuple[PodContainer, ...] = ()
    containers: tuple[PodContainer, ...] = ()

    @property
    def everyone(self) -> tuple[PodContainer, ...]:
        """Init containers, sidecars and containers, in the order of their start."""
        return (*self.inits, *self.containers)
