"""The rules, as functions of values: nothing here waits, reads a clock, or touches a file."""
