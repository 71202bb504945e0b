"""CRI's messages to our words and back: one file per noun, written by hand.

`decode_*` comes from the wire, `encode_*` goes to it. Where a message travels both ways both stand side by side, and
`decode(encode(x)) == x`. What a request's decoder answers is the tuple of arguments that the service's verb takes.

Decoders raise `InvalidArgument`, naming the CRI path, for what makes no sense on its own: a missing name or id, a number that
no enumeration of CRI has, a port or an id out of range, a relative path where an absolute one belongs. Whether a request makes
sense here and now is the service's to say. Encoders raise nothing: what they are given was made here.

Absent messages become the value with which the field's runtimes treat them: no `namespace_options` are all zero (every
namespace the pod's own), no `filter` is the empty one, no wrapped number is None. Windows' messages are passed over: a Linux
runtime has always ignored them, and clients fill them for either platform.
"""
