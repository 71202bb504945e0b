"""What tests of shims look at."""

from pathlib import Path


def shims_below(folder: Path) -> list[str]:
    """The command lines of shims whose sandboxes lie below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cwd = str((process / "cwd").readlink())
        except OSError:
            continue
        if "shim" in command.split(" ", 1)[0] and (cwd.startswith(f"{folder}/") or f" {folder}/" in command):
            found.append(command)
    return found
