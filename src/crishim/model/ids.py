"""Identifiers. The library chooses sandbox and container ids (64 hexadecimal digits); the image service chooses image ids."""

from typing import NewType

SandboxId = NewType("SandboxId", str)
ContainerId = NewType("ContainerId", str)
ImageId = NewType("ImageId", str)
