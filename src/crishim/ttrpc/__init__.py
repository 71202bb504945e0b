"""ttrpc: gRPC's calls on a bare stream socket, as containerd and its shims use it.

`frames` and `connection` are pure; `client` and `server` run them on asyncio. Payloads are bytes here; callers and handlers
encode and decode them.
"""
