"""Kubernetes' client for Python as a program: exec and port-forward against the URLs of an API server.

The exit code is the command's; 255 is for everything else.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import threading
from typing import Any

import yaml
from kubernetes import client
from kubernetes.stream import portforward, stream
from kubernetes.stream.ws_client import ERROR_CHANNEL, RESIZE_CHANNEL, STDERR_CHANNEL, STDIN_CHANNEL, STDOUT_CHANNEL


def execute(core: Any, words: argparse.Namespace, namespace: str, name: str) -> int:
    session = stream(
        core.connect_get_namespaced_pod_exec,
        name,
        namespace,
        container=words.container,
        command=words.rest,
        stdin=words.stdin,
        stdout=True,
        stderr=not words.tty,
        tty=words.tty,
        binary=True,
        _preload_content=False,
    )
    for width, height in (size.split("x") for size in words.sizes.split()):
        session.write_channel(RESIZE_CHANNEL, json.dumps({"Width": int(width), "Height": int(height)}).encode())
    if words.stdin:
        threading.Thread(target=feed, args=(session,), daemon=True).start()
    while session.is_open():
        session.update(timeout=1)
        show(session)
    show(session)
    status = yaml.safe_load(session.peek_channel(ERROR_CHANNEL))
    if status["status"] == "Success" or status["reason"] == "NonZeroExitCode":
        return int(session.returncode)
    sys.stderr.write(f"error: {status['details']['causes'][0]['message']}\n")
    return 255


def show(session: Any) -> None:
    for channel, output in ((STDOUT_CHANNEL, sys.stdout), (STDERR_CHANNEL, sys.stderr)):
        output.buffer.write(session.read_channel(channel))


def feed(session: Any) -> None:
    while data := os.read(sys.stdin.fileno(), 256 * 1024):
        session.write_stdin(data)
    session.close_channel(STDIN_CHANNEL)


def forward(core: Any, words: argparse.Namespace, namespace: str, name: str) -> int:
    """Stdin to one port, the response to stdout."""
    port = int(words.rest[0])
    forwarder = portforward(core.connect_get_namespaced_pod_portforward, name, namespace, ports=str(port))
    connection = forwarder.socket(port)
    connection.setblocking(True)
    with contextlib.suppress(ConnectionError):  # an error on its own channel ends both ways
        connection.sendall(sys.stdin.buffer.read())
        with connection.makefile("rb") as answer:
            shutil.copyfileobj(answer, sys.stdout.buffer)
    if forwarder.error(port):
        sys.stderr.write(f"error: {forwarder.error(port)}\n")
        return 255
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("server", "verb", "pod", "container", "sizes"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--stdin", action="store_true")
    parser.add_argument("--tty", action="store_true")
    parser.add_argument("rest", nargs="*")
    words = parser.parse_args()
    namespace, _, name = words.pod.partition("/")
    core = client.CoreV1Api(client.ApiClient(client.Configuration(host=words.server)))
    return (forward if words.verb == "portforward" else execute)(core, words, namespace, name)


if __name__ == "__main__":
    sys.exit(main())
