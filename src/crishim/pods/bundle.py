"""Bundles: the folder of one container, with its config.json and what its monitor leaves there."""

import json
import shutil
from pathlib import Path
from typing import Any

from crishim.errors import DataLoss


def make_bundle(folder: Path) -> None:
    """Make a bundle's folder. Others may pass through it, since a user namespace may have its root in there."""
    folder.mkdir(parents=True, mode=0o711)


def write_bundle(folder: Path, config: dict[str, Any], log_path: str) -> None:
    """Fill a bundle, for nobody else's eyes. Non-UTF-8 values of the environment stay the bytes they were."""
    text = json.dumps(config, ensure_ascii=False)
    (folder / "config.json").touch(mode=0o600)
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (folder / "log-path").write_text(log_path, encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """A bundle's config.json. Raises `DataLoss`."""
    try:
        text = (folder / "config.json").read_bytes().decode("utf-8", "surrogateescape")
        config: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataLoss(f"{folder / 'config.json'}: {error}") from error
    return config


def delete_bundle(folder: Path) -> None:
    """Delete a bundle, as far as it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    Path(temporary).replace(path)
