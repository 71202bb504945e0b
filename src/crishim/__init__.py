"""crishim: CRI requests mapped onto a ten-verb backend."""

__version__ = "0.1.0"
