"""The commands of `crishim` that have files of their own."""
