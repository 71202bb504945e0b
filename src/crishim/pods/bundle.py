"""Bundles: the folder of a container, with its config.json and the files of its monitor."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

from crishim.errors import DataLoss

__all__ = ["load_config"]


def make_bundle(folder: Path) -> None:
    """Create a bundle's folder. It can be traversed by others, since the root of a user namespace may enter it."""
    folder.mkdir(parents=True, mode=0o711)


def write_bundle(folder: Path, config: dict[str, Any], log_path: str) -> None:
    """Write the files of a bundle, readable by root only. Values of the environment that are not UTF-8 are written byte by
    byte.
    """
    text = json.dumps(config, ensure_ascii=False)
    (folder / "config.json").touch(mode=0o600)
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (folder / "log-path").write_text(log_path, encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """A bundle's config.json. Raises `DataLoss`."""
    try:
        return load_config(folder)
    except (OSError, ValueError) as error:
        raise DataLoss(f"{folder / 'config.json'}: {error}") from error


def load_config(folder: Path) -> dict[str, Any]:
    """A bundle's config.json, with surrogate escapes for bytes that are not UTF-8. Raises `OSError` and `ValueError`."""
    text = (folder / "config.json").read_bytes().decode("utf-8", "surrogateescape")
    config: dict[str, Any] = json.loads(text)
    return config


def delete_bundle(folder: Path) -> None:
    """Delete a bundle, or what is left of it."""
    shutil.rmtree(folder, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees either all of it or the previous content."""
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}.new")  # several may write one file at once
    temporary.write_text(text, encoding="utf-8")
    Path(temporary).replace(path)
