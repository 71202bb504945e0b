"""Generates the messages and their stubs from every .proto file beside this one: `python src/crishim/_proto/generate.py`.

The generators are pinned and run in a virtual environment that is created for the run and deleted after it, so that every run
gives the same bytes. Needs pip and its package index.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
IMPORT_ROOT = FOLDER.parents[1]

GENERATORS = (
    # Carries protoc 30, whose code loads on protobuf 6.30.0 and on every later 6.x and 7.x.
    "grpcio-tools==1.72.1",
    # Writes stubs that a strict type-checker reads: field names, enum values and HasField are checked.
    "mypy-protobuf==3.6.0",
)


def main() -> int:
    """Writes `*_pb2.py` and `*_pb2.pyi` beside the .proto files; returns protoc's exit code."""
    # Relative to the import root: the name is the file's key in the shared descriptor pool, and protoc makes imports of it.
    sources = sorted(str(path.relative_to(IMPORT_ROOT)) for path in FOLDER.glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        programs = Path(folder, "bin")
        subprocess.run([programs / "pip", "install", "--quiet", *GENERATORS], check=True)
        protoc = subprocess.run(
            [
                *(programs / "python", "-m", "grpc_tools.protoc"),
                f"--plugin=protoc-gen-mypy={programs / 'protoc-gen-mypy'}",
                f"--proto_path={IMPORT_ROOT}",
                f"--python_out={IMPORT_ROOT}",
                f"--mypy_out=quiet:{IMPORT_ROOT}",
                *sources,
            ],
            check=False,
        )
    return protoc.returncode


if __name__ == "__main__":
    sys.exit(main())
