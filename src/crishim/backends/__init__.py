"""The backends that come with this package, each behind an entry point of the group `crishim.backends`."""
