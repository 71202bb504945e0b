"""What identifies a WebAssembly module: as an artifact, as a file, and in the tree that it becomes."""

from typing import Final

ARTIFACT: Final = "application/wasm"
"""The media type of the one layer of an artifact (CNCF TAG Runtime, "Wasm OCI Artifact layout")."""

MAGIC: Final = b"\0asm"
"""The first bytes of a module (core specification, 5.5.16); no archive begins with a null byte."""

MODULE: Final = "module.wasm"
"""The file, in the root, of an artifact's module."""
