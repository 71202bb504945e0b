import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {image}
    imagePullPolicy: {pull}
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.05; done"]
"""


def crishim(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "crishim", *words], capture_output=True, text=True, timeout=60, check=False)


@contextlib.contextmanager
def begun(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A crishim that runs; killed at the end if it still does."""
    with subprocess.Popen(
        [sys.executable, "-m", "crishim", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        try:
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)


def until(true: Callable[[], bool]) -> None:
    """Wait for what announces itself by no event, for half a minute."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true")


def test_what_a_killed_player_left_is_taken_down(tmp_path: Path) -> None:
    """A pod whose player was killed runs on at its endpoint, until `--down` stops and removes it."""
    pod, socket = tmp_path / "pod.yaml", tmp_path / "cri.sock"
    pod.write_text(POD.format(name="pod", image="host:any", pull="IfNotPresent"))
    config = tmp_path / "crishim.toml"
    config.write_text(f'listen = "{socket}"\nstate = "{tmp_path}/state"\nruntime_state = "{tmp_path}/run"\n')
    at = ("--endpoint", str(socket))
    with begun("serve", "--config", str(config)):
        until(socket.exists)
        with begun("play", str(pod), *at) as player:
            assert player.stdout is not None
            until(lambda: "Running" in str(player.stdout and player.stdout.readline()))
        down, again = crishim("play", str(pod), *at, "--down"), crishim("play", str(pod), *at, "--down")
    assert (0, True) == (down.returncode, "main   exited 0" in down.stdout), down.stdout + down.stderr
    assert (0, True) == (again.returncode, "does not exist at the endpoint" in again.stdout), again.stdout + again.stderr


def test_pods_fall_together(tmp_path: Path) -> None:
    """When one pod of a file cannot be played the others are stopped and removed, and the exit status says so."""
    good = POD.format(name="good", image="host:any", pull="IfNotPresent")
    bad = POD.format(name="bad", image="host:none", pull="Never")
    (tmp_path / "pods.yaml").write_text(f"{good}---{bad}")
    done = crishim("play", str(tmp_path / "pods.yaml"), "--backend", "crishim.backends.process:plugin")
    assert 125 == done.returncode, done.stdout + done.stderr
    assert "crishim: ImageStatus: image host:none is not present, and must not be pulled (NOT_FOUND)\n" == done.stderr
    assert 2 == done.stdout.count("removed")
