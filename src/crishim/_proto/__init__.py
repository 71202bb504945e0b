"""The wire contracts: our own .proto files, and the messages generated from them."""
