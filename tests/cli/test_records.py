"""`crishim records` over a file that a server has left."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path

from click.testing import CliRunner, Result

from crishim.cli.main import main
from crishim.shimv2.client.files import SandboxFolder, ShimRecord
from crishim.store.sqlite import SqliteStore
from tests.store.test_sqlite import a_container, a_sandbox


def run(config: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ("records", *words, "--config", str(config)))


def config_of(folder: Path) -> Path:
    """A configuration whose file of records has a sandbox, a container, and a row that cannot be read."""

    async def fill() -> None:
        store = SqliteStore(folder / "records.sqlite")
        await store.load()
        await store.put(a_sandbox())
        await store.put(a_container())
        await store.close()

    asyncio.run(fill())
    with contextlib.closing(sqlite3.connect(folder / "records.sqlite")) as connection:
        connection.execute("INSERT INTO records VALUES ('broken', x'00ff', 7)")
        connection.commit()
    config = folder / "crishim.toml"
    config.write_text(f'state = "{folder}"\n')
    return config


def test_records_are_listed(tmp_path: Path) -> None:
    """Each record has a line with kind, id, phase and name; one that cannot be read has the reason."""
    lines = run(config_of(tmp_path), "list").output.splitlines()
    assert [("sandbox", a_sandbox().id), ("container", a_container().id), ("unreadable", "broken")] == [
        (line.split()[0], line.split()[1]) for line in lines
    ]
    assert "checksum" in lines[2]


def test_a_record_is_shown(tmp_path: Path) -> None:
    """The record is shown as it is stored; an unknown id is an error."""
    config = config_of(tmp_path)
    assert a_sandbox().id == json.loads(run(config, "show", a_sandbox().id).output)["id"]
    missing = run(config, "show", "none")
    assert (1, "crishim: record 'none' not found\n") == (missing.exit_code, missing.output)


def test_a_record_is_dropped(tmp_path: Path) -> None:
    """A dropped record is gone, also one that cannot be read; the others stay."""
    config = config_of(tmp_path)
    assert 0 == run(config, "drop", "broken").exit_code
    assert 2 == len(run(config, "list").output.splitlines())


def test_a_dead_shims_record_is_dropped_with_its_sandbox(tmp_path: Path) -> None:
    """What is known of the shim of a dropped sandbox is forgotten; that of another stays."""
    config = config_of(tmp_path)
    run_folder = tmp_path / "run"
    config.write_text(f'state = "{tmp_path}"\nruntime_state = "{run_folder}"\n')
    shims = run_folder / "backends" / "kata" / "shims"
    for name in (a_sandbox().id, "other"):
        SandboxFolder(shims / name).make()
        SandboxFolder(shims / name).write_shim(ShimRecord(bundle="/nowhere", dead=True))
    assert 0 == run(config, "drop", a_sandbox().id).exit_code
    assert [shims / "other"] == list(shims.iterdir())


def test_a_living_shims_record_stays(tmp_path: Path) -> None:
    """The record of a shim that lives is all that leads to it, and stays when its sandbox's is dropped."""
    config = config_of(tmp_path)
    run_folder = tmp_path / "run"
    config.write_text(f'state = "{tmp_path}"\nruntime_state = "{run_folder}"\n')
    folder = SandboxFolder(run_folder / "backends" / "kata" / "shims" / a_sandbox().id)
    folder.make()
    folder.write_shim(ShimRecord(bundle="/nowhere"))
    assert 0 == run(config, "drop", a_sandbox().id).exit_code
    assert folder.shim() is not None


def test_records_are_exported(tmp_path: Path) -> None:
    """Every record is one line of JSON; one that cannot be read has its bytes in base64."""
    rows = [json.loads(line) for line in run(config_of(tmp_path), "export").output.splitlines()]
    assert [a_sandbox().id, a_container().id, "broken"] == [row["id"] for row in rows]
    assert ("sandbox", "AP8=") == (rows[0]["kind"], rows[2]["raw"])


def test_without_a_file(tmp_path: Path) -> None:
    """Where nothing was ever recorded the file is named."""
    config = tmp_path / "crishim.toml"
    config.write_text(f'state = "{tmp_path}"\n')
    result = run(config, "list")
    assert (1, True) == (result.exit_code, "records.sqlite" in result.output)
