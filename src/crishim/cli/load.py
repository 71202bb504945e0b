"""`crishim load`: adds an image from local files to the node's store."""

import asyncio
import json
from pathlib import Path
from typing import IO

import click

from crishim import app
from crishim.cli.options import config_option, exit_on_error, fail
from crishim.config import Config
from crishim.errors import FailedPrecondition
from crishim.images.manifest import CONFIG_KEYS, image_config
from crishim.model.image import ImageConfig


@click.command(name="load")
@click.argument("source")
@click.argument("name")
@click.option(
    "--image-config",
    "described",
    type=click.File(encoding="utf-8"),
    help="JSON of the defaults of a root file system (- is stdin).",
)
@config_option
def command(source: str, name: str, described: IO[str] | None, path: Path | None) -> None:
    """Add the image SOURCE to the store as NAME, without a registry, and print its id.

    SOURCE is a root file system, as a folder or a tar file; an OCI layout; or an archive that docker save, podman save or
    skopeo copy has written. Of several images one is named as skopeo does: oci-archive:FILE:TAG, or
    docker-archive:FILE:NAME:TAG.

    The JSON of --image-config has the keys of an OCI image's config: Entrypoint, Cmd, Env, WorkingDir, User, StopSignal,
    Volumes and Labels; others are refused. What is mounted below a folder is left out. The store must not be in use by a
    server.
    """
    config = None
    if described is not None:
        try:
            value = json.load(described)
            config = image_config(value)
        except (ValueError, TypeError, AttributeError) as error:
            fail(f"--image-config is not the config of an image: {error}", 2)
        if unknown := sorted(value.keys() - CONFIG_KEYS):
            fail(f"--image-config has keys that are not supported: {', '.join(unknown)}", 2)
    with exit_on_error():
        click.echo(asyncio.run(_load(app.read_config(path), source, name, config)))


async def _load(node: Config, source: str, name: str, config: ImageConfig | None) -> str:
    try:
        store = app.store(node)
    except FailedPrecondition as error:  # unlike a pull, this is no call of CRI that a running server would answer
        fail(f"{error}: stop the server on {node.listen} first", 1)
    try:
        return await store.load(source, name, config)
    finally:
        await store.close()
