"""A small engine in place of a microVM or sandbox service; its only interface is HTTP.

It has ids, labels and addresses of its own. A machine has tasks; a task is a process, whose output the engine stores with its
times. `python -m tiny_engine PORT` serves on the loopback address; `Engine` is the same for tests, with a listener that can be
closed.
"""

import asyncio
import base64
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web


class Task:
    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.output: list[dict[str, Any]] = []
        self.code: int | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises `OSError` for a program that cannot be run."""
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *self.request["argv"],
            env=self.request["env"],
            cwd=self.request.get("cwd") or "/",
            stdin=pipe if self.request.get("stdin") else asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        self._running = asyncio.create_task(self._run(self.process))

    async def _run(self, process: asyncio.subprocess.Process) -> None:
        streams = {"stdout": process.stdout, "stderr": process.stderr}
        reading = asyncio.gather(*(self._read(name, stream) for name, stream in streams.items() if stream))
        await exited(process.pid)
        with contextlib.suppress(ProcessLookupError):  # a task ends with its first process, and then its output does
            os.killpg(process.pid, signal.SIGKILL)
        await reading
        code = await process.wait()
        self.code = code if code >= 0 else 128 - code
        self.ended.set()
        self._tell()

    async def _read(self, name: str, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(1 << 15):
            self.output.append({"time": time.time_ns(), "stream": name, "data": base64.b64encode(data).decode()})
            self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self, since: int) -> AsyncIterator[dict[str, Any]]:
        """All pieces of output from the time `since` on, to the end."""
        done = 0
        while True:
            changed, ended = self.changed, self.ended.is_set()
            for piece in self.output[done:]:
                if piece["time"] >= since:
                    yield piece
            done = len(self.output)
            if ended:
                return
            if changed is self.changed:
                await changed.wait()

    def kill(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)


async def exited(pid: int) -> None:
    """Return when a child has exited; `Process.wait` also waits for the end of its pipes."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:  # it is reaped already
        return
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, over.set)
    try:
        await over.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


class Engine:
    """`listener` is its server; closing it makes the engine unavailable, while its tasks keep running."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._numbers = itertools.count(1)
        self._machines: dict[str, dict[str, Any]] = {}
        self._tasks: dict[str, Task] = {}
        self._runner: web.AppRunner | None = None

    async def listen(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/version", self._version),
                web.get("/machines", self._list),
                web.post("/machines", self._make_machine),
                web.post("/machines/{id}/stop", self._stop_machine),
                web.delete("/machines/{id}", self._remove_machine),
                web.post("/tasks", self._make_task),
                web.post("/tasks/{id}/start", self._start_task),
                web.post("/tasks/{id}/kill", self._kill_task),
                web.post("/tasks/{id}/stdin", self._feed_task),
                web.get("/tasks/{id}/wait", self._wait_task),
                web.get("/tasks/{id}/output", self._output),
                web.delete("/tasks/{id}", self._remove_task),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop_listening(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def close(self) -> None:
        """End all tasks and the server."""
        for task in self._tasks.values():
            task.kill(signal.SIGKILL)
        await asyncio.gather(*(task.ended.wait() for task in self._tasks.values() if task.process))
        await self.stop_listening()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "3.1.4"})

    async def _list(self, request: web.Request) -> web.Response:
        label = request.query.get("label")
        machines = [machine for machine in self._machines.values() if label in {None, machine["label"]}]
        tasks = [
            {"id": id, "started": task.process is not None, "code": task.code, **task.request}
            for id, task in self._tasks.items()
            if label in {None, task.request["label"]}
        ]
        return web.json_response({"machines": machines, "tasks": tasks})

    async def _make_machine(self, request: web.Request) -> web.Response:
        number = next(self._numbers)
        machine = {"id": f"vm-{number}", "address": f"10.99.0.{number % 254 + 1}", "running": True, **await request.json()}
        self._machines[machine["id"]] = machine
        return web.json_response(machine)

    async def _stop_machine(self, request: web.Request) -> web.Response:
        self._find(self._machines, request)["running"] = False
        return web.json_response({})

    async def _remove_machine(self, request: web.Request) -> web.Response:
        del self._machines[self._find(self._machines, request)["id"]]
        return web.json_response({})

    async def _make_task(self, request: web.Request) -> web.Response:
        id = f"task-{next(self._numbers)}"
        self._tasks[id] = Task(await request.json())
        return web.json_response({"id": id})

    async def _start_task(self, request: web.Request) -> web.Response:
        task = self._find(self._tasks, request)
        try:
            await task.start()
        except OSError as error:
            raise web.HTTPBadRequest(text=f"{task.request['argv'][0]}: {error.strerror}") from error
        return web.json_response({})

    async def _kill_task(self, request: web.Request) -> web.Response:
        self._find(self._tasks, request).kill((await request.json())["signal"])
        return web.json_response({})

    async def _feed_task(self, request: web.Request) -> web.Response:
        stdin = self._find(self._tasks, request).process.stdin
        if data := await request.read():
            stdin.write(data)
            await stdin.drain()
        else:
            stdin.close()
        return web.json_response({})

    async def _wait_task(self, request: web.Request) -> web.Response:
        task = self._find(self._tasks, request)
        await task.ended.wait()
        return web.json_response({"code": task.code})

    async def _output(self, request: web.Request) -> web.StreamResponse:
        task = self._find(self._tasks, request)
        reply = web.StreamResponse()
        await reply.prepare(request)
        async for piece in task.follow(int(request.query.get("since", "0"))):
            await reply.write((web.json_response(piece).text or "").encode() + b"\n")
        return reply

    async def _remove_task(self, request: web.Request) -> web.Response:
        task = self._find(self._tasks, request)
        task.kill(signal.SIGKILL)
        del self._tasks[request.match_info["id"]]
        return web.json_response({})

    def _find(self, table: dict[str, Any], request: web.Request) -> Any:
        id = request.match_info["id"]
        if id not in table:
            raise web.HTTPNotFound(text=f"there is no {id}")
        return table[id]


async def serve(port: int) -> None:
    engine = Engine(port)
    await engine.listen()
    print(f"engine at http://127.0.0.1:{engine.port}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 7070))
