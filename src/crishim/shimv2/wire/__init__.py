"""What both sides of shim v2 say: messages, options, addresses, metrics. Pure."""
