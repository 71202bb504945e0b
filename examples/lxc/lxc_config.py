"""A bundle's config.json as items of LXC's configuration (lxc.container.conf(5)): pairs of a key and a value."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crishim import InvalidArgument
from crishim.linux.bundle_mounts import place
from crishim.linux.cgroups import folder_of
from crishim.oci.resources import cgroup_files

Item = tuple[str, str]
NAMESPACES = {"network": "net", "mount": "mnt", "pid": "pid", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
ACTIONS = {"SCMP_ACT_ALLOW": "allow", "SCMP_ACT_KILL": "kill", "SCMP_ACT_KILL_THREAD": "kill", "SCMP_ACT_TRAP": "trap"}
USUAL = ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2", "136:*")  # null, zero, full, random, urandom, tty, ptmx, pts
HOOK = 'test ! -e "$0/pid" && exec 9<>"$0/gate" && echo "$LXC_PID" >"$0/new" && mv "$0/new" "$0/pid" && read -r go <&9'
"""Runs on the node when all is made but the program does not run yet. An end by SIGHUP, a reboot for LXC, is one here."""


def items(bundle: Path, folder: Path, config: Mapping[str, Any], *, v2: bool) -> Iterator[Item]:
    """`folder` has the files `pid`, `gate`, `log` and `seccomp`. Raises `InvalidArgument`."""
    refuse(config)
    process, linux, root = config["process"], config["linux"], bundle / config["root"]["path"]
    user, capabilities = process["user"], process.get("capabilities", {}).get("bounding", ())
    yield from (("lxc.log.file", str(folder / "log")), ("lxc.log.level", "ERROR"))
    yield from (("lxc.hook.version", "1"), ("lxc.hook.start-host", shlex.join(("sh", "-c", HOOK, str(folder)))))
    yield from (("lxc.rootfs.path", f"dir:{root}"), ("lxc.rootfs.options", "ro" if config["root"].get("readonly") else "rw"))
    yield from (("lxc.init.uid", str(user["uid"])), ("lxc.init.gid", str(user["gid"])), ("lxc.init.cwd", process["cwd"]))
    yield "lxc.init.groups", ",".join(map(str, user.get("additionalGids", ())))
    yield from (("lxc.environment", variable) for variable in process.get("env", ()))
    yield "lxc.proc.oom_score_adj", str(process.get("oomScoreAdj", 0))
    rlimits = {limit["type"].removeprefix("RLIMIT_").lower(): limit for limit in process.get("rlimits", ())}
    yield from ((f"lxc.prlimit.{name}", f"{limit['soft']}:{limit['hard']}") for name, limit in rlimits.items())
    yield "lxc.cap.keep", " ".join(name.removeprefix("CAP_").lower() for name in capabilities) or "none"
    yield from (("lxc.console.path", "none"), ("lxc.no_new_privs", str(int(process.get("noNewPrivileges", False)))))
    yield "lxc.apparmor.profile", process.get("apparmorProfile") or "unconfined"
    if "seccomp" in linux:
        (folder / "seccomp").write_text("\n".join(seccomp(linux["seccomp"])))
        yield "lxc.seccomp.profile", str(folder / "seccomp")
    yield from namespace_items(config)
    yield from cgroup_items(bundle, config, v2=v2)
    yield from mount_items(root, config)


def refuse(config: Mapping[str, Any]) -> None:
    """Raise `InvalidArgument` for what LXC cannot do, or is not converted here."""
    linux, process = config["linux"], config["process"]
    options = {option for mount in config["mounts"] for option in mount.get("options", ())}
    asked = {"hooks": config.get("hooks"), "linux.sysctl": linux.get("sysctl")}
    asked["process.selinuxLabel"] = process.get("selinuxLabel")
    asked["linux.namespaces"] = {space["type"] for space in linux["namespaces"]} - NAMESPACES.keys()
    asked["process.capabilities.ambient"] = process.get("capabilities", {}).get("ambient")
    asked["mounts.options"] = options & {"shared", "rshared", "slave", "rslave", "rro", "idmap", "ridmap"}
    for field in (field for field, found in asked.items() if found):
        raise InvalidArgument(field, f"{asked[field]} is not supported")


def namespace_items(config: Mapping[str, Any]) -> Iterator[Item]:
    spaces = {NAMESPACES[space["type"]]: space.get("path", "") for space in config["linux"]["namespaces"]}
    new = {name for name, path in spaces.items() if not path}
    new |= {"cgroup" for mount in config["mounts"] if mount.get("type") == "cgroup"}  # LXC mounts the container's own in it
    yield "lxc.namespace.clone", " ".join(sorted(new))
    yield from ((f"lxc.namespace.share.{name}", path) for name, path in spaces.items() if path)
    yield "lxc.uts.name", config.get("hostname", "") if "uts" in new else ""


def cgroups_of(bundle: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """The cgroup of a container, and that of the process beside it, both in the cgroup of the pod."""
    cgroup = folder_of(config["linux"].get("cgroupsPath") or f"/lxc/{bundle.name}")
    return cgroup, str(Path(cgroup).with_name(f"monitor-{Path(cgroup).name}"))


def cgroup_items(bundle: Path, config: Mapping[str, Any], *, v2: bool) -> Iterator[Item]:
    own, beside = (path.lstrip("/") for path in cgroups_of(bundle, config))
    prefix = "lxc.cgroup2" if v2 else "lxc.cgroup"
    yield from (("lxc.cgroup.dir.container", own), ("lxc.cgroup.dir.monitor", beside), ("lxc.cgroup.dir.monitor.pivot", beside))
    resources = config["linux"].get("resources", {})
    yield from ((f"{prefix}.{file}", value) for file, value in cgroup_files(resources, v2=v2).items())
    for rule in resources.get("devices", ()):
        major, minor = (str(rule[part]) if rule.get(part, -1) >= 0 else "*" for part in ("major", "minor"))
        device = f"{rule.get('type') or 'a'} {major}:{minor} {rule.get('access') or 'rwm'}"
        yield f"{prefix}.devices.{'allow' if rule['allow'] else 'deny'}", device
    yield from ((f"{prefix}.devices.allow", rule) for rule in (*(f"c {each} rwm" for each in USUAL), "c *:* m", "b *:* m"))


def mount_items(root: Path, config: Mapping[str, Any]) -> Iterator[Item]:
    """LXC follows no link of the root file system, so links are resolved here, and what is missing is made."""
    linux, cwd, kinds = config["linux"], config["process"]["cwd"], {"/": ""}
    if cwd != "/":
        place(root, cwd, folder=True)
    for mount in config["mounts"]:
        kind, source, options = mount.get("type", "bind"), mount.get("source", "none"), mount.get("options", ())
        folder = not {"bind", "rbind"} & set(options) or Path(source).is_dir()
        target = place(root, mount["destination"], folder=folder).relative_to(root.resolve())
        kinds[mount["destination"]] = kind
        if kind == "cgroup":
            yield "lxc.mount.auto", f"cgroup:{'ro' if 'ro' in options else 'rw'}:force"
        elif kind != "devpts" and (kind, mount["destination"]) != ("tmpfs", "/dev"):
            yield entry(source, target, kind, *options, "create=dir" if folder else "create=file")
    yield "lxc.autodev", str(int(kinds.get("/dev") == "tmpfs"))
    yield "lxc.pty.max", "1024" if "devpts" in kinds.values() else "0"
    for device in (each for each in linux.get("devices", ()) if each["path"] != "/dev/ptmx"):  # which LXC makes itself
        yield entry(node(device), Path(device["path"]).relative_to("/"), "none", "bind", "create=file")
    for path in linux.get("readonlyPaths") or ():
        yield entry(path.lstrip("/"), Path(path).relative_to("/"), "none", "rbind", "ro", "relative", "optional")
    for path in map(Path, linux.get("maskedPaths") or ()):  # /proc and /sys are as the node's
        seen, target = path if path.parts[1] in {"proc", "sys"} else root / path.relative_to("/"), path.relative_to("/")
        if seen.is_dir():
            yield entry("tmpfs", target, "tmpfs", "ro", "optional")
        elif seen.exists():
            yield entry("/dev/null", target, "none", "bind", "optional")


def entry(source: str, target: Path, kind: str, *options: str) -> Item:
    """As in fstab(5)."""
    written = [text.translate({ord(char): f"\\{ord(char):03o}" for char in " \t\n\\"}) for text in (source, str(target))]
    return "lxc.mount.entry", f"{written[0]} {written[1]} {kind} {','.join(options)} 0 0"


def node(device: Mapping[str, Any]) -> str:
    """The node's own file of a device. Raises `InvalidArgument`."""
    name = f"/sys/dev/{'block' if device['type'] == 'b' else 'char'}/{device['major']}:{device['minor']}/uevent"
    try:
        return next(f"/dev/{line[8:]}" for line in Path(name).read_text().splitlines() if line.startswith("DEVNAME="))
    except (OSError, StopIteration) as error:
        raise InvalidArgument("devices", f"{device['path']} is no device of this node") from error


def seccomp(profile: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a profile of LXC, version 2. Raises `InvalidArgument` for an action that it has not."""
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    yield from ("2", f"allowlist {default}")
    for rule in profile.get("syscalls", ()):
        conditions = "".join(f"[{condition(argument)}]" for argument in rule.get("args", ()))
        if (wanted := action(rule["action"], rule.get("errnoRet"))) != default:
            yield from (f"{name} {wanted} {conditions}" for name in rule["names"])


def action(name: str, number: int | None) -> str:
    if (found := f"errno {1 if number is None else number}" if name == "SCMP_ACT_ERRNO" else ACTIONS.get(name)) is None:
        raise InvalidArgument("linux.seccomp", f"LXC has no action {name}")
    return found


def condition(argument: Mapping[str, Any]) -> str:
    index, operator, value, second = argument["index"], argument["op"], argument["value"], argument.get("valueTwo") or 0
    return f"{index},{second},{operator},{value}" if operator == "SCMP_CMP_MASKED_EQ" else f"{index},{value},{operator}"
