"""CRI's wire format: conversion between its messages and the library's values, and dispatch of calls. Needs protobuf, and
nothing of gRPC.

`pb` has CRI's messages, enumerations and services, generated from the project's copy of api.proto. They encode to the same
bytes as any other stubs.
"""

from crishim._proto import cri_pb2 as pb
from crishim.cri.dispatch import Call, Dispatcher, Metadata

__all__ = ["Call", "Dispatcher", "Metadata", "pb"]
