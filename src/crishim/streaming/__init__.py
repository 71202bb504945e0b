"""Exec, attach and port-forward over SPDY/3.1 and WebSocket.

`events` has the contract of the codecs. `spdy_frames`, `spdy_headers` and `spdy` are SPDY/3.1 alone; `channels` is the
remote-command protocol alone, `portforward` the port-forward protocol; `websocket` runs both on WebSocket; `upgrade` answers
the HTTP request that begins a stream; `tokens` stores the requests behind URLs. All of these are pure.

`connection` runs a codec on a socket, and gives its streams as readers and writers; `sessions` connects them to processes
(exec, attach), `forwarding` to ports; `http_connection` answers one HTTP request; `server` serves all of it by URL.
"""
