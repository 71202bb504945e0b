"""The seccomp profile format of container engines -> linux.seccomp.

The format extends the OCI one by conditions: rules for some architectures, capabilities or kernel versions, and architectures
with their sub-architectures. Rules whose conditions are not met are left out.
"""

import json
from typing import Any, Final

from crishim.errors import InvalidArgument
from crishim.oci.facts import Host

_NATIVE: Final = {
    "amd64": "SCMP_ARCH_X86_64",
    "arm64": "SCMP_ARCH_AARCH64",
    "arm": "SCMP_ARCH_ARM",
    "386": "SCMP_ARCH_X86",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "s390x": "SCMP_ARCH_S390X",
    "riscv64": "SCMP_ARCH_RISCV64",
}


def seccomp(text: str, capabilities: frozenset[str], host: Host, field: str) -> dict[str, Any]:
    """Convert a profile for a container with these capabilities. Raises `InvalidArgument` naming `field`."""
    try:
        profile = json.loads(text)
        return _converted(profile, capabilities, host)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(field, f"is not a seccomp profile: {error}") from error


def _converted(profile: dict[str, Any], capabilities: frozenset[str], host: Host) -> dict[str, Any]:
    result: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    for key in ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata"):
        if key in profile and profile[key] not in ("", None):
            result[key] = profile[key]
    architectures = list(profile.get("architectures") or [])
    native = _NATIVE.get(host.architecture)
    for entry in profile.get("archMap") or []:
        if entry["architecture"] == native:
            architectures = [entry["architecture"], *(entry.get("subArchitectures") or [])]
    if architectures:
        result["architectures"] = architectures
    rules = [_rule(rule) for rule in profile.get("syscalls") or [] if _applies(rule, capabilities, host)]
    if rules:
        result["syscalls"] = rules
    return result


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"names": rule.get("names") or [rule["name"]], "action": rule["action"]}
    if rule.get("errnoRet") is not None:
        result["errnoRet"] = rule["errnoRet"]
    if rule.get("args"):
        result["args"] = [{key: value for key, value in arg.items() if value is not None} for arg in rule["args"]]
    return result


def _applies(rule: dict[str, Any], capabilities: frozenset[str], host: Host) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and host.architecture not in includes["arches"]:
        return False
    if host.architecture in (excludes.get("arches") or []):
        return False
    if not capabilities.issuperset(includes.get("caps") or []):
        return False
    if capabilities.intersection(excludes.get("caps") or []):
        return False
    if (least := includes.get("minKernel")) and host.kernel < _kernel(least):
        return False
    return not ((least := excludes.get("minKernel")) and host.kernel >= _kernel(least))


def _kernel(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)
