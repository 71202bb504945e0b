import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from crishim.cli.main import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed(shell: str) -> None:
    """The script names the variable that makes crishim complete."""
    done = CliRunner().invoke(main, ["completion", shell])
    assert (0, True) == (done.exit_code, f"_CRISHIM_COMPLETE={shell}_complete" in done.output), done.output


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash: apt-get install bash")
def test_the_script_is_one_for_its_shell() -> None:
    """Bash reads its script without a complaint."""
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_commands_are_completed() -> None:
    """What the script asks for is answered with the commands that begin so."""
    variables = {**os.environ, "_CRISHIM_COMPLETE": "bash_complete", "COMP_WORDS": "crishim co", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "crishim"], env=variables, capture_output=True, text=True, check=False)
    assert ["plain,completion", "plain,config", "plain,coverage"] == sorted(done.stdout.split())
