"""The wire contracts: our own .proto files, and the messages generated from them."""

from typing import Final

from google.protobuf.message import DecodeError

UNDECODABLE: Final = (DecodeError, UnicodeDecodeError)
"""What `FromString` and `ParseFromString` raise for bytes that are not the message.

For a string that is not UTF-8, protobuf's implementation in Python raises the second, its others the first.
"""
