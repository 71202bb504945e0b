"""A registry with a busybox in it, for the page about registries; its port is written into the folder. Ends with its parent."""

import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.node.registry import File, Layout, folder, serving, tar_of


def main(place: Path) -> None:
    busybox = Path(str(shutil.which("busybox"))).read_bytes()
    layout = Layout(place / "layout")
    layout.image([tar_of(folder("bin"), File("bin/busybox", busybox, mode=0o755))], {"Cmd": ["busybox"]}, tag="one")
    with serving(place / "registry") as registry:
        for name in ("test", "other"):
            registry.push(layout, "one", f"{name}/busybox:1")
        (place / "port").write_text(str(registry.port))
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
