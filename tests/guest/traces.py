"""What a node shows of containers: its mounts, slices, scopes and links, as JSON. A script of the standard library alone.

Printed before and after each part of the guest's run, which must leave the node as it found it. What systemd makes by itself,
on demand, is left out: its own services' slices below system.slice, and mounts of its automounts.
"""

import json
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OF_SYSTEMD = ("/proc/sys/fs/binfmt_misc", "/run/credentials/", "/run/user/")


def traces() -> list[str]:
    """Everything that a container could have left, one line each."""
    found = []
    for line in Path("/proc/1/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if not fields[4].startswith(OF_SYSTEMD):
            found.append(f"mount {fields[4]} ({' '.join(fields[fields.index('-') + 1 :])})")
    for pattern in ("*.slice", "*.scope"):
        for path in CGROUPS.rglob(pattern):
            name = str(path.relative_to(CGROUPS))
            if not name.startswith(("system.slice/system-", "user.slice")):
                found.append(f"cgroup {name}")
    found.extend(f"link {path.name}" for path in Path("/sys/class/net").iterdir())
    return sorted(set(found))


if __name__ == "__main__":
    print(json.dumps(traces()))
