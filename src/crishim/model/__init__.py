"""The values of the library: frozen classes for what clients request and what backends report.

A class with CRI's name (`ContainerConfig`, `Mount`, ...) is CRI's message with the same fields, decoded once by `cri`. `*Spec`
is what a backend receives: resolved. `Observed*` is what a backend reports. `*Status` is what CRI shows. Everything is
hashable and comparable; times are integer nanoseconds since the epoch, sizes are bytes.
"""
