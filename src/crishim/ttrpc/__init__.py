"""ttrpc: gRPC's calls on a bare stream socket, as containerd and its shims speak it.

`frames` and `connection` are pure; `client` and `server` put them on asyncio. Payloads are bytes here: what they mean is the
business of whoever calls or serves.
"""
