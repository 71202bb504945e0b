"""The kubelet's configuration file."""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.kubelet.world import KubeletNode

NUMBER: Final = 91
"""What sets our node apart from other nodes of tests."""

GATES: Final = {
    "PodAndContainerStatsFromCRI": True,
    "CRIListStreaming": True,
    "ContainerStopSignals": True,
    "ContainerCheckpoint": True,
    "KubeletCrashLoopBackOffMax": True,
}
"""What releases have off by default, and CRIListStreaming, which some have on. EventedPLEG has checks of its own."""


def settings(k: "KubeletNode") -> dict[str, Any]:
    """The kubelet's configuration file. Periods are short, and no folder of the machine is used."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{k.node.place}/cri.sock",
        "staticPodPath": str(k.manifests),
        "podLogsDir": str(k.logs),
        "volumePluginDir": str(k.place / "plugins"),
        "resolvConf": str(k.place / "resolv.conf"),
        "address": "127.0.0.1",
        "port": k.port,
        "readOnlyPort": k.read_only,
        "healthzPort": k.health,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "enableServer": True,
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupRoot": f"/crinode{NUMBER}",
        "enforceNodeAllocatable": ["pods"],
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "localStorageCapacityIsolation": True,
        "syncFrequency": "5s",
        "fileCheckFrequency": "2s",
        "nodeStatusUpdateFrequency": "5s",
        "volumeStatsAggPeriod": "2s",
        "containerLogMaxSize": "8Ki",
        "containerLogMaxFiles": 3,
        "containerLogMonitorInterval": "3s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "10Mi"},
        "podPidsLimit": 500,
        "maxPods": 200,
        "featureGates": GATES,
    }
