"""runc for a machine that lacks some of Linux's capabilities: "all of them" then means all that are here.

Engines that give a privileged container every capability there is cannot start one on such a machine. This stands between the
engine and runc, and takes out of config.json (or an exec's process file) what the machine could not give.
"""

import json
import os
import sys
from pathlib import Path

from crishim.pods.host import host


def narrow(file: Path) -> None:
    """Remove the capabilities that this machine does not have."""
    config = json.loads(file.read_bytes())
    process = config.get("process", config)
    bounding = host().bounding
    for name, capabilities in (process.get("capabilities") or {}).items():
        process["capabilities"][name] = [capability for capability in capabilities or () if capability in bounding]
    file.write_text(json.dumps(config))


def main() -> None:
    """Narrow the bundle's capabilities, and exec runc."""
    arguments = sys.argv[1:]
    for option, inside in (("--bundle", "config.json"), ("--process", "")):
        if option in arguments:
            narrow(Path(arguments[arguments.index(option) + 1]) / inside)
    os.execvp("runc", ["runc", *arguments])


if __name__ == "__main__":
    main()
