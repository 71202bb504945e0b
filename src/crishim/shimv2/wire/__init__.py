"""The wire format that both sides of shim v2 share: messages, options, addresses, metrics. Pure."""
