"""The rules of the life cycle as pure functions of values: nothing here awaits, reads a clock, or touches a file."""
