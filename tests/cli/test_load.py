"""`crishim load`, into a store of a configuration."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from crishim.app import read_config, store
from crishim.model.image import ImageConfig, ImageSpec
from tests.backends.runc.world import needs

NAME = "edge.example/app:1"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/app").write_text("a program")
    file = tmp_path / "crishim.toml"
    file.write_text(
        f'listen = "{tmp_path}/run/crishim.sock"\nstate = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\n'
        '[handlers]\n"" = "runc"\n'
    )
    return file


def load(
    config: Path, *arguments: str, stdin: str = "", before: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    command = [
        *before,
        sys.executable,
        "-m",
        "crishim",
        "load",
        "--config",
        str(config),
        str(config.parent / "root"),
        NAME,
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, input=stdin, env=environment)


@pytest.mark.node
@needs("tar")
async def test_a_folder_with_defaults(config: Path) -> None:
    """The command prints the id of the image, which has the defaults that the JSON names."""
    done = load(config, "--image-config", "-", stdin=json.dumps({"Cmd": ["/bin/app"], "User": "5"}))
    assert (0, "") == (done.returncode, done.stderr)
    images = store(read_config(config))
    try:
        detail = await images.status(ImageSpec(image=NAME))
        assert detail is not None
        assert (done.stdout.strip(), ImageConfig(cmd=("/bin/app",), user="5")) == (detail.image.id, detail.config)
    finally:
        await images.close()


@pytest.mark.node
@needs("tar")
async def test_defaults_are_utf8(config: Path) -> None:
    """The JSON is read as UTF-8 in a locale of another encoding, too."""
    (config.parent / "image.json").write_text('{"Env": ["NAME=Zoë"]}', encoding="utf-8")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = load(config, "--image-config", str(config.parent / "image.json"), environment=environment)
    assert (0, "") == (done.returncode, done.stderr)
    images = store(read_config(config))
    try:
        detail = await images.status(ImageSpec(image=NAME))
        assert detail is not None
        assert ("NAME=Zoë",) == detail.config.env
    finally:
        await images.close()


@pytest.mark.node
@needs("tar")
async def test_refusals(config: Path) -> None:
    """Defaults that are no object or have unknown keys end with 2; a locked store ends with 1, its name and its server."""
    done = load(config, "--image-config", "-", stdin="[1]")
    assert (2, "") == (done.returncode, done.stdout)
    done = load(config, "--image-config", "-", stdin='{"Cmd": ["/bin/app"], "EntryPoint": [], "ExposedPorts": {}}')
    message = "crishim: --image-config has keys that are not supported: EntryPoint, ExposedPorts\n"
    assert (2, "", message) == (done.returncode, done.stdout, done.stderr)
    images = store(read_config(config))
    try:
        done = load(config)
        assert (1, "") == (done.returncode, done.stdout)
        assert f"the image store {config.parent}/state/images is used by another process" in done.stderr
        assert f": stop the server on {config.parent}/run/crishim.sock first\n" in done.stderr
    finally:
        await images.close()


@pytest.mark.node
@needs("tar", "setpriv")
def test_a_file_that_cannot_be_read(config: Path) -> None:
    """A file that tar may not read is named with tar's reason, in the language of no locale."""
    (config.parent / "root/bin/app").chmod(0)
    without = "-dac_override,-dac_read_search"
    before = ("setpriv", f"--bounding-set={without}", f"--inh-caps={without}") if os.geteuid() == 0 else ()
    done = load(config, before=before)
    message = f"loading {config.parent}/root: ./bin/app: Cannot open: Permission denied"
    assert (1, "", f"crishim: {message}\n") == (done.returncode, done.stdout, done.stderr)
