"""The words of this house: frozen values for what is asked and what is seen.

A class with CRI's name (`ContainerConfig`, `Mount`, ...) is CRI's message with the same fields, decoded once at the door.
`*Spec` is what a backend receives: resolved. `Observed*` is what a backend saw. `*Status` is what CRI is told.
Everything is hashable and comparable; times are integer nanoseconds since the epoch, sizes are bytes.
"""
