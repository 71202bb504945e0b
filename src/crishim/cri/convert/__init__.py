"""Converts CRI's messages to the values of `model` and back: one file per group of messages, written by hand.

`decode_*` converts from the wire, `encode_*` to the wire. If a message travels in both directions, both functions are
adjacent, and `decode(encode(x)) == x`. A request's decoder returns the arguments of the service's verb as a tuple.

Decoders raise `InvalidArgument`, naming the CRI path, for values that are invalid in themselves: a missing name or id, an
unknown enumeration value, a port or an id out of range, a relative path where an absolute one is required. The service checks
whether a request is valid in the current state. Encoders raise nothing: their values were validated before.

Absent messages are decoded as containerd and CRI-O treat them: no `namespace_options` are all zero (every namespace the pod's
own), no `filter` is the empty one, no wrapped number is None. Windows' messages are ignored, as Linux runtimes always have:
clients fill them for either platform.
"""
