import itertools

import pytest

from crishim.config import Config, default_text, parse
from crishim.errors import InvalidArgument


def parsed(*texts: str) -> Config:
    return parse((f"file{number}", text.encode()) for number, text in enumerate(texts))


def test_the_default_file_says_what_no_file_says() -> None:
    """The commented file that is printed is the defaults, and has a comment before every key."""
    text = default_text()
    assert Config() == parsed(text) == parsed()
    lines = text.splitlines()
    bare = [line for before, line in itertools.pairwise(lines) if " = " in line and not before.startswith("#")]
    assert ['"" = "process"'] == bare
    assert max(map(len, lines)) <= 128


def test_later_files_replace_single_values() -> None:
    """A drop-in changes what it names, down to one handler and one option, and leaves the rest."""
    config = parsed(
        'listen = "/a/b/../cri.sock"\n[handlers]\nfast = "one"\n[backends.one]\nx = 1\ny = [2]\n[log]\nlevel = "debug"\n',
        '[handlers]\n"" = "two"\n[backends.one]\ny = 3\n[log]\nformat = "json"\n[deadlines]\nprobe = 3\n',
    )
    assert "/a/cri.sock" == config.listen
    assert {"": "two", "fast": "one"} == dict(config.handlers)
    assert ("two", "one") == config.backend_names
    assert {"x": 1, "y": 3} == dict(config.options_of("one"))
    assert ("debug", "json", 3.0) == (config.log.level, config.log.format, config.deadlines.probe)


def test_a_backend_may_name_its_plugin() -> None:
    """`plugin` is not an option of the backend, but the plug-in behind its name."""
    config = parsed('[backends.crun]\nplugin = "runc"\ncommand = "crun"\n')
    assert ("runc", {"command": "crun"}) == (config.plugin_of("crun"), dict(config.options_of("crun")))
    assert "process" == config.plugin_of("process")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listem = 1", "file0: listem: is not known; did you mean listen?"),
        ("[log]\nlevle = 1", "file0: log.levle: is not known; did you mean level?"),
        ("[log]\nzzz = 1", "file0: log.zzz: is not known; known: level, format"),
        ('listen = "relative"', 'file0: listen: must be an absolute path, not "relative"'),
        ("listen = 3", "file0: listen: must be an absolute path, not 3"),
        ('[log]\nlevel = "loud"', 'file0: log.level: must be one of "debug", "info", "warning", "error", not "loud"'),
        ("[streaming]\nport = 70000", "file0: streaming.port: must be a whole number from 0 to 65535, not 70000"),
        ("[streaming]\nport = true", "file0: streaming.port: must be a whole number from 0 to 65535, not true"),
        ("[streaming]\nhost = 1", "file0: streaming.host: must be a string, not 1"),
        ("[tracing]\nsampling = 1.5", "file0: tracing.sampling: must be a number from 0 to 1, not 1.5"),
        ("[tracing]\nsampling = nan", "file0: tracing.sampling: must be a number from 0 to 1, not NaN"),
        (
            '[tracing]\nendpoint = "collector:4317"',
            'file0: tracing.endpoint: must be http://HOST:PORT or https://HOST:PORT, not "collector:4317"',
        ),
        ("[deadlines]\nprobe = 0", "file0: deadlines.probe: must be a number of seconds above 0, not 0"),
        ("deadlines = 3", "file0: deadlines: must be a table"),
        ('handlers = "x"', 'file0: handlers: must be a table of backend names, not "x"'),
        ("[backends]\nx = 1", 'file0: backends: must be tables of options, one for each backend, not {"x": 1}'),
        ("[backends.x]\nplugin = 1", "backends.x.plugin: must be a string"),
        ('[streaming]\nprivate_key = "/k"', "streaming.private_key: is set without a certificate"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    """An unknown key, a wrong type or a wrong value is refused with the file, the key, and what it should have been."""
    with pytest.raises(InvalidArgument) as refused:
        parsed(text)
    assert message == refused.value.message


@pytest.mark.parametrize("data", [b"listen = ", b"\xff"])
def test_what_is_no_toml_is_named(data: bytes) -> None:
    """A file that cannot be read as TOML is refused by its name."""
    with pytest.raises(InvalidArgument) as refused:
        parse([("broken.toml", data)])
    assert "broken.toml" == refused.value.field


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:4317", "https://collector.example:4317/", "http://[::1]:4317"])
def test_endpoints_of_collectors_are_taken(endpoint: str) -> None:
    """A collector is named by a URL with a port, or there is none."""
    assert endpoint == parsed(f'[tracing]\nendpoint = "{endpoint}"').tracing.endpoint
