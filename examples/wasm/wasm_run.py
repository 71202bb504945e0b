"""The process of one container: runs the module of a bundle, in a mount namespace of its own."""

import os
import sys
from pathlib import Path
from typing import Any

from wasmtime import Engine, FuncType, Linker, Module, Store, Trap, ValType, WasiConfig

from crishim.linux.bundle_mounts import make_read_only, mount_bundle
from crishim.linux.roots import path_in_root
from crishim.pods.bundle import load_config

ABORTED = 134  # 128 + SIGABRT, as of a program that has failed an assertion


def main(bundle: Path) -> int:
    config = load_config(bundle)
    process, root = config["process"], bundle / config["root"]["path"]
    if config["root"].get("readonly"):
        make_read_only(root)
    mount_bundle(root, config["mounts"])
    engine = Engine()
    module = Module.from_file(engine, str(path_in_root(root, process["args"][0])))
    store = Store(engine)
    store.set_limits(memory_size=memory_limit(config))
    store.set_wasi(wasi(process, root))
    linker = Linker(engine)
    linker.define_wasi()
    linker.allow_shadowing = True  # wasmtime's own refuses codes from 126
    linker.define_func("wasi_snapshot_preview1", "proc_exit", FuncType([ValType.i32()], []), end)
    become(process["user"])
    try:
        start: Any = linker.instantiate(store, module).exports(store)["_start"]
        start(store)
    except Trap as trap:
        print(trap, file=sys.stderr, flush=True)
        return ABORTED
    return 0


def end(code: int) -> None:
    os._exit(code & 0xFF)


def wasi(process: dict[str, Any], root: Path) -> WasiConfig:
    config = WasiConfig()
    config.argv = process["args"]
    config.env = [tuple(variable.split("=", 1)) for variable in process.get("env", ())]
    config.inherit_stdin()
    config.inherit_stdout()
    config.inherit_stderr()
    config.preopen_dir(str(root), "/")
    return config


def memory_limit(config: dict[str, Any]) -> int:
    limit = config["linux"].get("resources", {}).get("memory", {}).get("limit", -1)
    return limit if limit > 0 else -1


def become(user: dict[str, Any]) -> None:
    os.setgroups(user.get("additionalGids", []))
    os.setgid(user["gid"])
    os.setuid(user["uid"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
