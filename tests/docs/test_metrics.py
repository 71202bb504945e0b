import asyncio
import contextlib
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from crishim.testing.suite.node import free_port

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
POD = """
apiVersion: v1
kind: Pod
metadata: {name: pod}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "host:any", command: [sleep, "1000"]}
"""


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each name in the page's table."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| ", PAGE.read_text(), re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def scraped(text: str) -> dict[str, tuple[str, set[str]]]:
    """Type and seen labels of each name in an exposition."""
    found: dict[str, tuple[str, set[str]]] = {}
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        base = re.escape(name) + ("(?:_bucket|_sum|_count)" if kind == "histogram" else "")
        labels = re.findall(rf"^{base}\{{(.*)\}} ", text, re.MULTILINE)
        found[name] = (kind, {label for line in labels for label in re.findall(r'(\w+)="', line)} - {"le"})
    return found


def scrape_until(url: str, words: str) -> str:
    """The metrics, once they contain these words."""
    for _ in range(600):
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=10) as reply:
            text = reply.read().decode()
            if words in text:
                return str(text)
        asyncio.run(asyncio.sleep(0.1))
    raise AssertionError(f"{words} was not seen")


def test_a_scrape_shows_the_documented_names_and_no_other(tmp_path: Path) -> None:
    """Under `crishim play` the names, types and labels of a scrape are those of the page's table."""
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(POD)
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "crishim", "play", str(manifest), "--metrics-address", address]
    with subprocess.Popen(
        [*command, "--backend", "crishim.backends.process:plugin"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as playing:
        text = scrape_until(f"http://{address}/metrics", 'crishim_containers{state="running"} 1.0')
        playing.terminate()
        _, errors = playing.communicate(timeout=60)
    assert (128 + 15, "") == (playing.returncode, errors)
    expected, seen = documented(), scraped(text)
    assert {name: kind for name, (kind, _) in expected.items()} == {name: kind for name, (kind, _) in seen.items()}
    unseen = {"crishim_recovery_repairs_total"}  # nothing was to be repaired
    assert {name: labels for name, (_, labels) in expected.items() if name not in unseen} == {
        name: labels for name, (_, labels) in seen.items() if name not in unseen
    }


async def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The program of the page prints the URL of its metrics."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "metrics.md", "exec"), names)
    main = names["main"]
    assert callable(main)
    await main()
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
