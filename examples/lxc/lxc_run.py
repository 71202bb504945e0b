"""The process beside a container, and that of an exec: calls liblxc, since no command of LXC reports a container's exit code.

    lxc_run.py start REQUEST     runs a container, and exits with its code
    lxc_run.py exec FD PIPE      runs a process in a container, writes its pid to PIPE, and exits with its code

A request is JSON. Only the standard library is imported: this process stays as long as the container.
"""

import ctypes
import json
import os
import signal
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_uint, c_void_p, cast
from pathlib import Path
from typing import Any

# words of `struct lxc_container` (lxc/lxccontainer.h), which has only been extended since LXC 1.0, and of its functions
ERROR, FUNCTIONS, START, WANT_DAEMONIZE, SET_CONFIG_ITEM, ATTACH = 8, 10, 7, 10, 14, 36
DEFAULT_FLAGS, SET_GROUPS, CLEAR_ENVIRONMENT, FAILED = 0xFFFF, 0x200000, 1, 128


class AttachOptions(ctypes.Structure):
    _fields_ = [("flags", c_int), ("namespaces", c_int), ("personality", c_long), ("cwd", c_char_p), ("uid", c_uint)]
    _fields_ += [("gid", c_uint), ("env_policy", c_int), ("env", POINTER(c_char_p)), ("kept", c_void_p), ("stdio", c_int * 3)]
    _fields_ += [("log", c_int), ("label", c_char_p), ("group_count", c_size_t), ("groups", POINTER(c_uint))]


class Command(ctypes.Structure):
    _fields_ = [("program", c_char_p), ("argv", POINTER(c_char_p))]


class Container:
    def __init__(self, library: Any, request: dict[str, Any]) -> None:
        library.lxc_container_new.restype = c_void_p
        self.words = c_void_p(library.lxc_container_new(os.fsencode(request["name"]), os.fsencode(request["path"])))
        if not self.words:
            sys.exit("LXC cannot lock the container: is /run/lxc writable?")
        for key, value in request["items"]:
            if not self.call(SET_CONFIG_ITEM, c_char_p(key.encode()), c_char_p(os.fsencode(value))):
                Path(request["files"], "failed").write_text(f"LXC does not take {key}")
                sys.exit(FAILED)

    def call(self, function: int, *arguments: Any) -> int:
        address = cast(self.words, POINTER(c_void_p))[FUNCTIONS + function]
        bits = 0xFF if function != ATTACH else 0xFFFFFFFF  # all others return a bool
        return int(ctypes.CFUNCTYPE(c_int, c_void_p, *map(type, arguments))(address)(self.words, *arguments)) & bits


def strings(texts: list[str]) -> Any:
    return cast((c_char_p * (len(texts) + 1))(*map(os.fsencode, texts), None), POINTER(c_char_p))


def start(request: dict[str, Any]) -> int:
    for number, path in ((number, path) for number, path in enumerate(request["pipes"]) if path):
        # an output is opened for reading, too, so that the open does not wait for a reader
        os.dup2(os.open(path, os.O_RDWR if number else os.O_RDONLY | os.O_NONBLOCK), number)
        os.set_blocking(number, True)
    container = Container(ctypes.CDLL("liblxc.so.1"), request)
    container.call(WANT_DAEMONIZE, c_int(0))
    made = container.call(START, c_int(0), strings(request["args"]))
    status = int(cast(container.words, POINTER(c_int))[2 * ERROR])
    if not made and status == 1:
        errors = Path(request["files"], "log").read_text(errors="replace").splitlines() or [""]
        Path(request["files"], "failed").write_text(errors[0].split(" - ", 2)[-1])
        return FAILED
    return status >> 8 if not status & 0x7F else 128 + (status >> 8)  # liblxc writes a signal as number << 8 | 0x7f


def execute(request: dict[str, Any], pipe: int) -> int:
    library, process, pid = ctypes.CDLL("liblxc.so.1"), request["process"], c_int(0)
    container, user, argv = Container(library, request), process["user"], strings(process["args"])
    groups = user.get("additionalGids") or []
    options = AttachOptions(DEFAULT_FLAGS | SET_GROUPS, -1, -1, os.fsencode(process["cwd"]), user["uid"], user["gid"])
    options.env_policy, options.env, options.log = CLEAR_ENVIRONMENT, strings(process.get("env") or []), -1
    options.stdio = (c_int * 3)(*map(os.dup, range(3)))  # descriptor 0 would not become the controlling terminal
    options.group_count, options.groups = len(groups), (c_uint * len(groups))(*groups)
    Path("/proc/self/oom_score_adj").write_text(str(process.get("oomScoreAdj") or 0))
    run, command = cast(library.lxc_attach_run_command, c_void_p), Command(argv[0], argv)
    if container.call(ATTACH, run, *(cast(byref(value), c_void_p) for value in (command, options, pid))):
        return FAILED
    os.write(pipe, b"%d" % pid.value)
    code = os.waitstatus_to_exitcode(os.waitpid(pid.value, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # what is ignored here, as Python does SIGPIPE, would be so in the container
    if sys.argv[1] == "start":
        sys.exit(start(json.loads(Path(sys.argv[2]).read_bytes())))
    os.set_inheritable(int(sys.argv[3]), False)
    sys.exit(execute(json.loads(Path(f"/proc/self/fd/{sys.argv[2]}").read_bytes()), int(sys.argv[3])))
