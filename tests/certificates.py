"""Certificates of servers on 127.0.0.1 that sign themselves."""

import subprocess
from pathlib import Path

_REQUEST = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"


def self_signed(folder: Path, name: str = "node") -> tuple[Path, Path]:
    """A new certificate for a name, and its key, as files in a folder."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    words = [
        *_REQUEST.split(),
        "-subj",
        f"/CN={name}",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(words, check=True, capture_output=True)
    return certificate, key
