"""Run the official conformance suite (critest) against a backend of this checkout, in folders of its own.

    python -m tests.suite.run runc            # or crun, or docker; what follows goes to critest

Prints the suite's sums and what failed or was left out. The whole output stays in the cache folder, with crishim's log. Exits 0
only if nothing failed or was left out but what is known, with its reason.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from crishim.model.values import FrozenDict
from crishim.testing.suite.node import MIRRORED, missing, run_suite
from crishim.testing.suite.report import EVERYWHERE, KnownSpecs, report
from tests.suite import engine

NO_IDMAP: Final = "no runtime handler found which supports user namespaces"
OF_RUNTIMES: Final[Mapping[str, KnownSpecs]] = {
    "runc": KnownSpecs(skips=FrozenDict({NO_IDMAP: "runc before 1.2 maps no ids of mounts"})),
    "crun": KnownSpecs(skips=FrozenDict({NO_IDMAP: "crun before 1.9 maps no ids of volumes"})),
    "docker": KnownSpecs(
        skips=FrozenDict(
            {
                NO_IDMAP: "an engine maps ids for all containers, or none",
                "runtime does not implement recursive readonly mounts": "engines before 25 (API 1.44) have none",
            }
        )
    ),
    "shim": KnownSpecs(skips=FrozenDict({NO_IDMAP: "runc before 1.2 maps no ids of mounts"})),
}
"""What one runtime's program cannot do."""


@contextlib.contextmanager
def backend_of(runtime: str, folder: Path, port: int) -> Iterator[str]:
    """The part of crishim's configuration that names the backend, and what runs beneath it."""
    handlers = f'[handlers]\n"" = "{runtime}"\n'
    if runtime == "docker":
        with engine.engine(folder, port, MIRRORED) as socket:
            yield f'{handlers}[backends.docker]\nsocket = "{socket}"'
    elif runtime == "shim":
        yield f'{handlers}[backends.shim]\nshim = "io.containerd.runc.v2"'
    else:
        yield f'{handlers}[backends.{runtime}]\nplugin = "runc"\nruntime = "{runtime}"'


def main() -> int:
    """Run the suite once."""
    runtime = sys.argv[1] if len(sys.argv) > 1 else "runc"
    lacking = missing()
    if runtime == "docker" and not engine.available():
        lacking.append("dockerd: apt-get install docker.io")
    if lacking:
        print("the official suite needs:", *lacking, sep="\n  ")
        return 1
    xml, _ = run_suite(runtime, lambda folder, port: backend_of(runtime, folder, port), sys.argv[2:])
    text, bad = report(xml, runtime, EVERYWHERE | OF_RUNTIMES.get(runtime, KnownSpecs()))
    print(text)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
