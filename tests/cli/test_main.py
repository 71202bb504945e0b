import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner, Result

from crishim import __version__
from crishim.cli import check
from crishim.cli.main import main
from crishim.config import Config, parse
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding
from crishim.play import connect
from crishim.plugins import PluginError
from crishim.testing import fakes

FAKE = "crishim.testing.fakes:plugin"
PROCESS = "crishim.backends.process:plugin"
HELLO = Path(__file__).parents[2] / "examples" / "hello.yaml"
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: pod}}
spec:
  restartPolicy: Never
  containers:
  - {{name: main, image: "image:1", command: {command}}}
"""


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, words, input=stdin)


def manifest(folder: Path, *command: str) -> str:
    path = folder / "pod.yaml"
    path.write_text(POD.format(command=json.dumps(command)))
    return str(path)


def test_the_version_is_printed() -> None:
    """`crishim --version` is the package's version."""
    assert f"crishim {__version__}\n" == run("--version").output


def test_the_default_configuration_is_printed() -> None:
    """`crishim config default` prints a file that reads as the defaults."""
    done = run("config", "default")
    assert (0, Config()) == (done.exit_code, parse([("printed", done.output.encode())]))


def test_a_configuration_is_checked(tmp_path: Path) -> None:
    """`crishim config check` names the backends of a good file, and the key of a bad one."""
    file = tmp_path / "crishim.toml"
    file.write_text(f'[handlers]\n"" = "{FAKE}"\n')
    done = run("config", "check", "--config", str(file))
    assert (0, f"handler default: backend {FAKE}\nserves /run/crishim/crishim.sock\n") == (done.exit_code, done.output)
    file.write_text("listem = 1\n")
    done = run("config", "check", "--config", str(file))
    assert (1, f"crishim: {file}: listem: is not known; did you mean listen?\n") == (done.exit_code, done.output)


def test_a_machine_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`crishim check` lists what each backend finds and what is missing, and fails if a backend in use lacks what it needs."""
    file = tmp_path / "crishim.toml"
    file.write_text(
        f'listen = "{tmp_path}/s"\nstate = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\n[handlers]\n"" = "used"\n'
    )
    missing = Finding(what="conmon", ok=False, without="no logs", remedy="apt install conmon")
    found = Finding(what="runc", ok=True, found="1.1.0")
    checks = {"used": [found], "other": [missing]}

    def load(name: str) -> Plugin:
        if name == "broken":
            raise PluginError(name, "is broken")
        return Plugin(build=fakes.plugin.build, check=lambda _: checks[name])

    monkeypatch.setattr(check, "load", load)
    monkeypatch.setattr(check, "installed", lambda: ("broken", "other"))
    done = run("check", "--config", str(file))
    assert 0 == done.exit_code, done.output
    assert "pod network" not in done.output
    for words in (
        ["ok", "runc", "1.1.0"],
        ["missing", "conmon", "no logs; apt install conmon"],
        ["backend 'broken': is broken"],
    ):
        assert any(all(word in line for word in words) for line in done.output.splitlines()), done.output
    checks["used"].append(attrs.evolve(missing, what="pasta"))
    assert 1 == run("check", "--config", str(file)).exit_code


def test_each_configured_backend_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in whose check takes options gets those of every backend in use."""
    file = tmp_path / "crishim.toml"
    file.write_text(
        f'state = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\n[handlers]\n"" = "one"\nx = "two"\n'
        '[backends.one]\nplugin = "vm"\npath = "first"\n[backends.two]\nplugin = "vm"\npath = "second"\n'
    )

    def look(options: Mapping[str, object]) -> list[Finding]:
        return [Finding(what="path", ok=options["path"] == "first", found="there", without=f"no {options['path']}")]

    monkeypatch.setattr(check, "load", lambda _: Plugin(build=fakes.plugin.build, check=look))
    monkeypatch.setattr(check, "installed", lambda: ("vm",))
    done = run("check", "--config", str(file))
    assert 1 == done.exit_code
    assert all(words in done.output for words in ("backend one", "backend two", "no second"))
    assert "no first" not in done.output


def test_a_check_that_fails_is_one_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of a plug-in's check is shown as its failure, and the others are checked nevertheless."""
    file = tmp_path / "crishim.toml"
    file.write_text(f'state = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\n[handlers]\n"" = "one"\n')

    def break_down(_: Mapping[str, object]) -> list[Finding]:
        raise OSError("no such bus")

    plugins = {
        "one": Plugin(build=fakes.plugin.build, check=break_down),
        "two": Plugin(build=fakes.plugin.build, check=lambda _: [Finding(what="tool", ok=True, found="1.0")]),
    }
    monkeypatch.setattr(check, "load", plugins.__getitem__)
    monkeypatch.setattr(check, "installed", lambda: ("one", "two"))
    done = run("check", "--config", str(file))
    assert 1 == done.exit_code
    assert all(words in done.output for words in ("it has failed: OSError: no such bus", "tool  1.0"))


def test_a_pod_is_played(tmp_path: Path) -> None:
    """`crishim play` shows the pod's life and its containers' lines, and its exit status is the pod's."""
    done = run("play", manifest(tmp_path, "print", "hello", "there"), "--backend", FAKE)
    assert 0 == done.exit_code, done.output
    assert "main | hello there" in done.output
    assert done.output.endswith("Succeeded  main=0\n")
    failed = run("play", "-", "--backend", FAKE, stdin=POD.format(command='["fail", "3"]'))
    assert 3 == failed.exit_code
    assert "exited 3  Error" in failed.output


def test_several_pods_are_played() -> None:
    """The pods of one file are played concurrently, distinguished by their names, and the first failure is the exit status."""
    one = POD.format(command='["print", "hello"]').replace("name: pod", "name: first")
    two = POD.format(command='["fail", "4"]').replace("name: pod", "name: second")
    done = run("play", "-", "--backend", FAKE, stdin=f"{one}---{two}")
    assert 4 == done.exit_code, done.output
    assert "first/main | hello" in done.output
    assert done.output.endswith("first  Succeeded  main=0\nsecond  Failed  main=4\n")
    twice = run("play", "-", "--backend", FAKE, stdin=f"{one}---{one}")
    assert (125, "crishim: manifest: has Pod default/first twice\n") == (twice.exit_code, twice.output)


def test_down_needs_an_endpoint(tmp_path: Path) -> None:
    """`--down` without an endpoint is a mistake: nothing outlives a server of its own."""
    assert 2 == run("play", manifest(tmp_path, "print"), "--down").exit_code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Job", "crishim: kind: must be one of Pod, ConfigMap, Secret, RuntimeClass, List\n"),
        ("{", "crishim: manifest: is not YAML: "),
        (
            POD.format(command='["x"]').replace("main", "main, tty: 3"),
            "crishim: spec.containers[0].tty: must be true or false\n",
        ),
    ],
)
def test_an_invalid_manifest_is_reported(text: str, message: str) -> None:
    """A refused manifest is reported by its field, with status 125."""
    done = run("play", "-", "--backend", FAKE, stdin=text)
    assert 125 == done.exit_code
    assert done.output.startswith(message)


def test_an_endpoint_has_its_own_backend(tmp_path: Path) -> None:
    """`--endpoint` and `--backend` exclude each other; an endpoint without a server is reported."""
    pod = manifest(tmp_path, "print")
    assert 2 == run("play", pod, "--endpoint", "unix:///none", "--backend", FAKE).exit_code
    done = run("play", pod, "--endpoint", str(tmp_path / "none.sock"))
    assert (125, True) == (done.exit_code, "UNAVAILABLE" in done.output)


def test_the_example_is_played_on_processes() -> None:
    """examples/hello.yaml plays to its end on the embedded backend, over a real socket, and leaves no process."""
    done = subprocess.run(
        [sys.executable, "-m", "crishim", "play", str(HELLO), "--backend", PROCESS],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (0, "") == (done.returncode, done.stderr)
    lines = [line.split("|")[-1].strip() for line in done.stdout.splitlines() if "|" in line]
    assert {"hello from a process", "waiting for a greeting", "the greeting is there", "goodbye"} < set(lines)
    assert done.stdout.endswith("Succeeded  greeter=0  listener=0\n")


def test_an_interrupt_tears_down_cleanly(tmp_path: Path) -> None:
    """Ctrl-C stops the pod with its grace, removes it, and ends with 130; what the program says last is still shown."""
    pod = manifest(tmp_path, "sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    with subprocess.Popen(
        [sys.executable, "-m", "crishim", "play", pod, "--backend", PROCESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    ) as playing:
        assert playing.stdout is not None
        while "| up" not in (line := playing.stdout.readline()):
            assert line, playing.stderr.read() if playing.stderr else ""
        playing.send_signal(signal.SIGINT)
        rest, errors = playing.communicate(timeout=120)
    assert (130, "") == (playing.returncode, errors)
    for words in ("stopping", "main | bye", "exited 0  Completed", "stopped"):
        assert words in rest
    assert [tmp_path / "pod.yaml"] == list(tmp_path.iterdir())


def test_a_node_is_served_until_a_signal(tmp_path: Path) -> None:
    """`crishim serve` notifies the service manager of readiness and stop, takes pods from another process, logs a
    line for each RPC, and ends with 0.
    """
    file = tmp_path / "crishim.toml"
    listen = tmp_path / "cri.sock"
    file.write_text(
        f'listen = "{listen}"\nstate = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\n'
        f'[handlers]\n"" = "{FAKE}"\n[log]\nformat = "json"\nlevel = "debug"\n'
    )

    async def ask() -> str:
        async with connect(f"unix://{listen}") as client:
            return (await client.version()).runtime_name

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        with subprocess.Popen(
            [sys.executable, "-m", "crishim", "serve", "--config", str(file)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        ) as serving:
            assert b"READY=1" == manager.recv(100)
            assert "crishim" == asyncio.run(ask())
            played = run("play", manifest(tmp_path, "print", "hello"), "--endpoint", f"unix://{listen}")
            serving.send_signal(signal.SIGTERM)
            assert b"STOPPING=1" == manager.recv(100)
            _, errors = serving.communicate(timeout=120)
    assert 0 == serving.returncode
    calls = [line for line in map(json.loads, errors.splitlines()) if line["logger"] == "crishim.rpc"]
    methods = [line["message"].rsplit(" ", 2)[0] for line in calls]
    assert "Version - OK" == methods[0]
    assert "RunPodSandbox default/pod OK" in methods
    assert (0, "main | hello") == (played.exit_code, next(line.strip() for line in played.output.splitlines() if "|" in line))


def test_an_absent_extra_is_named(tmp_path: Path) -> None:
    """Without click the program says which extra brings it."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')\n")
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-m", "crishim"], capture_output=True, text=True, check=False, env=environ)
    assert (1, "crishim: the command line needs click: pip install 'crishim[cli]'\n") == (done.returncode, done.stderr)
