"""The CRI door: messages on one side, our own words on the other. Needs protobuf, and nothing of gRPC.

`pb` holds CRI's messages, enumerations and services, generated from our own copy of the contract. They agree with everybody
else's stubs byte for byte.
"""

from crishim._proto import cri_pb2 as pb
from crishim.cri.dispatch import Call, Dispatcher

__all__ = ["Call", "Dispatcher", "pb"]
