"""Examples of the values that a backend receives and reports: every field has one that says something."""

from collections.abc import Mapping
from typing import Any, Final

from crishim.model.container import (
    ContainerCreated,
    ContainerMetadata,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    Device,
    Inventory,
    Mount,
    MountPropagation,
    ObservedContainer,
    UserSpec,
)
from crishim.model.image import FilesystemUsage, ImageConfig, ImageSpec
from crishim.model.process import ExecSpec, Exit, Signal
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.runtime import ContainerEvent, ContainerEventType
from crishim.model.sandbox import (
    DNSConfig,
    LinuxPodSandboxConfig,
    ObservedSandbox,
    PodSandboxConfig,
    PodSandboxMetadata,
    PodSandboxState,
    PodSandboxStatus,
    PortMapping,
    SandboxSpec,
    SandboxStarted,
)
from crishim.model.security import (
    Capability,
    IDMapping,
    LinuxContainerSecurityContext,
    LinuxContainerUser,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    SELinuxOption,
    SupplementalGroupsPolicy,
    UserNamespace,
)
from crishim.model.stats import (
    CgroupUsage,
    ContainerUsage,
    CpuUsage,
    DeviceIo,
    IoUsage,
    MemoryUsage,
    MetricSample,
    NetworkInterfaceUsage,
    NetworkUsage,
    ProcessUsage,
    PsiData,
    PsiStats,
    SandboxUsage,
    SwapUsage,
)
from crishim.model.values import ContainerId, FrozenDict, ImageId, SandboxId

_POD: Final = SandboxId("6ac8e9b1" * 8)
_MAIN: Final = ContainerId("1f0d5c2a" * 8)
_IMAGE: Final = ImageId("sha256:" + "9d3e04fb" * 8)
_UID: Final = "0b2c9d1e-6c7a-4f57-9c55-2f1f5d0c7a11"
_SECOND: Final = 1_767_225_600_000_000_000
_MAPPING: Final = (IDMapping(host_id=65536, container_id=0, length=65536),)
_LABELS: Final = FrozenDict({"app": "web"})
_NOTES: Final = FrozenDict({"example.org/team": "shop"})
_METADATA: Final = PodSandboxMetadata(name="web-0", namespace="shop", uid=_UID, attempt=1)
_NAMESPACES: Final = NamespaceOption(
    network=NamespaceMode.POD,
    pid=NamespaceMode.TARGET,
    ipc=NamespaceMode.POD,
    target_id=_MAIN,
    userns_options=UserNamespace(mode=NamespaceMode.POD, uids=_MAPPING, gids=_MAPPING),
)
_SELINUX: Final = SELinuxOption(user="system_u", role="system_r", type="container_t", level="s0:c1,c2")
_SECCOMP: Final = SecurityProfile(ProfileType.LOCALHOST, "/var/lib/kubelet/seccomp/web.json")
_APPARMOR: Final = SecurityProfile(ProfileType.LOCALHOST, "web")
_RESOURCES: Final = Resources(
    cpu_period=100_000,
    cpu_quota=50_000,
    cpu_shares=512,
    memory_limit_in_bytes=128 * 2**20,
    oom_score_adj=-997,
    cpuset_cpus="0-3,7",
    cpuset_mems="0",
    hugepage_limits=(HugepageLimit(page_size="2MB", limit=64 * 2**20),),
    unified=FrozenDict({"memory.high": "120000000"}),
    memory_swap_limit_in_bytes=128 * 2**20,
)

SANDBOX: Final = SandboxSpec(
    id=_POD,
    config=PodSandboxConfig(
        metadata=_METADATA,
        hostname="web-0",
        log_directory=f"/var/log/pods/shop_web-0_{_UID}",
        dns_config=DNSConfig(servers=("10.96.0.10",), searches=("shop.svc.cluster.local",), options=("ndots:5",)),
        port_mappings=(PortMapping(container_port=8080, host_port=80, host_ip="192.0.2.1"),),
        labels=_LABELS,
        annotations=_NOTES,
        linux=LinuxPodSandboxConfig(
            cgroup_parent=f"/kubepods/burstable/pod{_UID}",
            security_context=LinuxSandboxSecurityContext(
                namespace_options=_NAMESPACES,
                selinux_options=_SELINUX,
                run_as_user=1000,
                run_as_group=1000,
                readonly_rootfs=True,
                supplemental_groups=(2000,),
                supplemental_groups_policy=SupplementalGroupsPolicy.STRICT,
                privileged=True,
                seccomp=_SECCOMP,
                apparmor=_APPARMOR,
            ),
            sysctls=FrozenDict({"net.core.somaxconn": "1024"}),
            overhead=Resources(memory_limit_in_bytes=160 * 2**20),
            resources=_RESOURCES,
        ),
    ),
    handler="kata",
    netns="/run/netns/cni-6ac8e9b1",
    ips=("10.244.0.7", "fd00::7"),
)

CONTAINER: Final = ContainerSpec(
    id=_MAIN,
    sandbox=SANDBOX,
    metadata=ContainerMetadata(name="main", attempt=2),
    image_id=_IMAGE,
    image=ImageSpec(
        image=_IMAGE,
        annotations=_NOTES,
        user_specified_image="registry.example/web:1",
        runtime_handler="kata",
        image_ref=_IMAGE,
    ),
    image_config=ImageConfig(
        entrypoint=("/app",),
        cmd=("--help",),
        env=("PATH=/usr/bin:/bin",),
        working_dir="/srv",
        user="web:www-data",
        stop_signal="SIGQUIT",
        volumes=("/data",),
        labels=FrozenDict({"org.opencontainers.image.version": "1"}),
    ),
    argv=("/app", "--port=8080"),
    env=FrozenDict({"PATH": "/usr/bin:/bin", "PORT": "8080"}),
    cwd="/srv",
    user=UserSpec(
        user="1000",
        group="1000",
        supplemental_groups=(2000,),
        supplemental_groups_policy=SupplementalGroupsPolicy.STRICT,
    ),
    stop_signal=Signal.SIGQUIT,
    log_path=f"/var/log/pods/shop_web-0_{_UID}/main/2.log",
    stdin=True,
    stdin_once=True,
    tty=True,
    mounts=(
        Mount(
            container_path="/etc/hosts",
            host_path=f"/var/lib/kubelet/pods/{_UID}/etc-hosts",
            readonly=True,
            selinux_relabel=True,
            propagation=MountPropagation.HOST_TO_CONTAINER,
            uid_mappings=_MAPPING,
            gid_mappings=_MAPPING,
            recursive_read_only=True,
            mount_options=("noexec",),
        ),
        Mount(container_path="/model", image=ImageSpec(image=_IMAGE), image_sub_path="weights", readonly=True),
    ),
    devices=(Device(container_path="/dev/fuse", host_path="/dev/fuse", permissions="rw"),),
    cdi_devices=("vendor.example/gpu=0",),
    labels=_LABELS,
    annotations=_NOTES,
    resources=_RESOURCES,
    security=LinuxContainerSecurityContext(
        capabilities=Capability(
            add_capabilities=("NET_BIND_SERVICE",),
            drop_capabilities=("ALL",),
            add_ambient_capabilities=("NET_BIND_SERVICE",),
        ),
        privileged=True,
        namespace_options=_NAMESPACES,
        selinux_options=_SELINUX,
        run_as_user=1000,
        run_as_group=1000,
        run_as_username="web",
        readonly_rootfs=True,
        supplemental_groups=(2000,),
        supplemental_groups_policy=SupplementalGroupsPolicy.STRICT,
        no_new_privs=True,
        masked_paths=("/proc/kcore",),
        readonly_paths=("/proc/sys",),
        seccomp=_SECCOMP,
        apparmor=_APPARMOR,
    ),
    oci_changes=FrozenDict[str, Any]({"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024}]}),
)

_USER: Final = LinuxContainerUser(uid=1000, gid=1000, supplemental_groups=(1000, 2000))
_EXIT: Final = Exit(code=137, at=_SECOND, started_at=_SECOND, oom=True, reason="Evicted", message="the node has no disk space")
_STATUS: Final = ContainerStatus(
    id=_MAIN,
    metadata=CONTAINER.metadata,
    state=ContainerState.EXITED,
    created_at=_SECOND,
    started_at=_SECOND,
    finished_at=_SECOND,
    exit_code=137,
    image=CONTAINER.image,
    image_ref="registry.example/web@" + _IMAGE,
    reason="OOMKilled",
    message="the container was killed",
    labels=_LABELS,
    annotations=_NOTES,
    mounts=CONTAINER.mounts,
    log_path=CONTAINER.log_path,
    resources=_RESOURCES,
    image_id=_IMAGE,
    user=_USER,
    stop_signal=Signal.SIGQUIT,
)

_PSI: Final = PsiStats(full=PsiData(total=90_000, avg10=0.5, avg60=0.1, avg300=0.02), some=PsiData(total=250_000, avg10=1.5))
_CPU: Final = CpuUsage(timestamp=_SECOND, usage_core_nano_seconds=4_200_000_000, usage_nano_cores=31_000_000, psi=_PSI)
_MEMORY: Final = MemoryUsage(
    timestamp=_SECOND,
    working_set_bytes=42 * 2**20,
    available_bytes=86 * 2**20,
    usage_bytes=57 * 2**20,
    rss_bytes=31 * 2**20,
    page_faults=90_211,
    major_page_faults=17,
    psi=_PSI,
)
_SAMPLES: Final = (MetricSample(name="container_fs_reads_total", value=812, labels=("8:0",)),)
_INTERFACE: Final = NetworkInterfaceUsage(name="eth0", rx_bytes=1_048_576, rx_errors=1, tx_bytes=524_288, tx_errors=2)
_CGROUP: Final = CgroupUsage(
    cpu=4_200_000_000,
    cpu_user=3_000_000_000,
    cpu_system=1_200_000_000,
    periods=4000,
    throttled_periods=12,
    throttled=340_000_000,
    memory=57 * 2**20,
    inactive_file=15 * 2**20,
    anonymous=31 * 2**20,
    cache=22 * 2**20,
    mapped_file=9 * 2**20,
    kernel=3 * 2**20,
    memory_most=80 * 2**20,
    limit_hits=2,
    page_faults=90_211,
    major_page_faults=17,
    oom_kills=1,
    swap=2 * 2**20,
    tasks=14,
    processes=3,
    memory_limit=128 * 2**20,
    swap_limit=64 * 2**20,
    task_limit=4096,
    io=(DeviceIo(device="8:0", reads=812, writes=97, read_bytes=6_651_904, written_bytes=794_624),),
    cpu_psi=_PSI,
    memory_psi=_PSI,
    io_psi=_PSI,
)

EXAMPLES: Final[Mapping[str, tuple[str, tuple[Any, ...]]]] = {
    "What a backend receives": (
        "`start_sandbox` receives a `SandboxSpec`, `create_container` a `ContainerSpec`, and `exec` an `ExecSpec`; the others are parts of these.",
        (SANDBOX, CONTAINER, ExecSpec(argv=("sh", "-c", "ls"), tty=True)),
    ),
    "What a backend reports": (
        "The results of the verbs.",
        (
            SandboxStarted(netns="/proc/4711/ns/net", ips=("10.244.0.7",)),
            ContainerCreated(user=_USER),
            _EXIT,
            Inventory(
                sandboxes=(ObservedSandbox(id=_POD, ready=True, netns="/proc/4711/ns/net", ips=("10.244.0.7",), ours=True),),
                containers=(
                    ObservedContainer(
                        id=_MAIN, sandbox_id=_POD, state=ContainerState.EXITED, started_at=_SECOND, exit=_EXIT, ours=True
                    ),
                ),
            ),
        ),
    ),
    "Usage": (
        "`container_usage` gives a `ContainerUsage`, `sandbox_usage` a `SandboxUsage`, and `cgroup_usage` of a runtime a `CgroupUsage`. None: not measured.",
        (
            ContainerUsage(
                cpu=_CPU,
                memory=_MEMORY,
                swap=SwapUsage(timestamp=_SECOND, swap_available_bytes=62 * 2**20, swap_usage_bytes=2 * 2**20),
                io=IoUsage(timestamp=_SECOND, psi=_PSI),
                process=ProcessUsage(timestamp=_SECOND, process_count=14),
                writable_layer=FilesystemUsage(
                    timestamp=_SECOND, mountpoint="/var/lib/crishim/images", used_bytes=12_288, inodes_used=3
                ),
                metrics=_SAMPLES,
            ),
            SandboxUsage(
                cpu=_CPU,
                memory=_MEMORY,
                network=NetworkUsage(timestamp=_SECOND, default_interface=_INTERFACE, interfaces=(_INTERFACE,)),
                process=ProcessUsage(timestamp=_SECOND, process_count=15),
                io=IoUsage(timestamp=_SECOND, psi=_PSI),
                metrics=_SAMPLES,
            ),
            _CGROUP,
        ),
    ),
    "Events": (
        "What `GetContainerEvents` sends, and `Services.events.subscribe` yields.",
        (
            ContainerEvent(
                container_id=_MAIN,
                type=ContainerEventType.STOPPED,
                created_at=_SECOND,
                pod_sandbox_status=PodSandboxStatus(
                    id=_POD,
                    metadata=_METADATA,
                    state=PodSandboxState.NOTREADY,
                    created_at=_SECOND,
                    ips=("10.244.0.7",),
                    namespaces=_NAMESPACES,
                    labels=_LABELS,
                    annotations=_NOTES,
                    runtime_handler="kata",
                ),
                containers_statuses=(_STATUS,),
            ),
        ),
    ),
}
"""Values by subject, in which every field of every class has a value."""
