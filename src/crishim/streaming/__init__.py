"""Exec, attach and port-forward over SPDY/3.1 and WebSocket.

`events` tells how the codecs are driven. `spdy_frames`, `spdy_headers` and `spdy` are SPDY/3.1 alone; `channels` is
the remote-command protocol alone, `portforward` the port-forward protocol; `websocket` puts both on WebSocket;
`upgrade` answers the HTTP request that begins it all; `tokens` keeps the requests that URLs stand for. All of these
are pure.

`connection` puts a codec on a socket, and gives its streams as readers and writers; `sessions` ties them to processes
(exec, attach), `forwarding` to ports; `door` answers one HTTP request; `server` is all of it behind URLs.
"""
