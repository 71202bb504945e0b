"""NRI's messages, compared in both directions with a table of the contract."""

from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from crishim._proto import nri_pb2
from docs.tools.wire import rows

TABLE = Path(__file__).parents[1] / "golden" / "nri-wire.tsv"


def test_the_table_and_our_file_are_the_same() -> None:
    """Every message, field, number, type, label and rpc of the contract is in our file, and nothing more."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    ours = FileDescriptorProto.FromString(nri_pb2.DESCRIPTOR.serialized_pb)
    assert {tuple(line.split("\t")) for line in lines if not line.startswith("#")} == rows(ours)
