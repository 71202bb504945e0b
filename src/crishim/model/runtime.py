"""What the node is told about the runtime as a whole."""

import enum

import attrs

from crishim.model.frozen import EMPTY, FrozenDict, frozen


class CgroupDriver(enum.IntEnum):
    """Who makes cgroups. CRI's zero value is SYSTEMD."""

    SYSTEMD = 0
    CGROUPFS = 1


@attrs.frozen(kw_only=True)
class Version:
    """The answer to Version. All four parts must be non-empty, and `runtime_version` semantic, or clients refuse it."""

    version: str = "0.1.0"
    runtime_name: str = "crishim"
    runtime_version: str
    runtime_api_version: str = "v1"


@attrs.frozen(kw_only=True)
class RuntimeCondition:
    """`RuntimeReady` or `NetworkReady`, and why not. A missing or false one makes the node NotReady."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


@attrs.frozen(kw_only=True)
class RuntimeHandlerFeatures:
    """Features of one handler; never more than its backend claims."""

    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False


@attrs.frozen(kw_only=True)
class RuntimeHandler:
    """A handler as Status lists it; the default one appears under the empty name too."""

    name: str
    features: RuntimeHandlerFeatures = RuntimeHandlerFeatures()


@attrs.frozen(kw_only=True)
class RuntimeFeatures:
    """Features that do not depend on the handler."""

    supplemental_groups_policy: bool = False
    user_namespaces_host_network: bool = False
    mount_options: bool = False


@attrs.frozen(kw_only=True)
class RuntimeStatus:
    """The answer to Status. `info` is filled for verbose requests only."""

    conditions: tuple[RuntimeCondition, ...]
    handlers: tuple[RuntimeHandler, ...] = ()
    features: RuntimeFeatures = RuntimeFeatures()
    info: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
