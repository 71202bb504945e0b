"""Versions, facts, errors."""

import json
from typing import Any

import pytest

from crishim.backends.docker.engine import Conflict, Engine, encoded, facts, refusal
from crishim.backends.docker.options import EngineFacts
from crishim.errors import CrishimError, InvalidArgument, NotFound, Unavailable, Unknown
from tests.backends.docker.http_server import Served, serving

RRO = json.dumps({"mountOptions": ["ro", "rro"]})


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", "/v1.41/"), ("1.44", "1.24", "/v1.44/"), ("1.99", "1.44", "/v1.51/")],
)
async def test_versions_are_agreed_on(newest: str, oldest: str, spoken: str) -> None:
    """The newest version of the API that both sides know is spoken."""
    version = json.dumps({"ApiVersion": newest, "MinAPIVersion": oldest}).encode()
    async with serving(Served(200, version), Served(200, b"[]")) as server:
        engine = Engine(server.path)
        assert [] == await engine.get("/images/json")
        assert spoken + "images/json" == server.targets[-1]
        engine.close()


@pytest.mark.parametrize(("newest", "oldest"), [("1.40", "1.12"), ("2.5", "2.0")])
async def test_strange_versions(newest: str, oldest: str) -> None:
    """An engine that is too old, or too new, is unavailable, with the reason."""
    version = json.dumps({"ApiVersion": newest, "MinAPIVersion": oldest}).encode()
    async with serving(Served(200, version)) as server:
        engine = Engine(server.path)
        with pytest.raises(Unavailable, match="API"):
            await engine.probe()
        engine.close()


FACTS = [
    ({}, {}, (1, 41), EngineFacts(version="unknown", root="/")),
    (
        {"Version": "28.0.1"},
        {
            "CgroupDriver": "systemd",
            "CgroupVersion": "2",
            "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=selinux"],
            "DefaultRuntime": "runc",
            "Runtimes": {"runc": {"status": {"org.opencontainers.runtime-spec.features": RRO}}},
            "DockerRootDir": "/var/lib/docker",
        },
        (1, 48),
        EngineFacts(
            version="28.0.1",
            api=(1, 48),
            systemd_cgroup=True,
            cgroup_v2=True,
            apparmor=True,
            selinux=True,
            recursive_readonly=True,
            runtimes=frozenset({"runc"}),
            root="/var/lib/docker",
        ),
    ),
]


@pytest.mark.parametrize(("version", "info", "api", "expected"), FACTS)
def test_facts(version: dict[str, Any], info: dict[str, Any], api: tuple[int, int], expected: EngineFacts) -> None:
    """An engine's facts, converted; missing ones are not assumed."""
    assert expected == facts(version, info, api)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidArgument), (404, NotFound), (409, Conflict), (500, Unknown), (503, Unavailable)],
)
def test_errors_by_status(status: int, kind: type[CrishimError]) -> None:
    """The status alone decides what an error is."""
    assert kind is type(refusal(status, "why", "container", "c"))


async def test_errors_have_the_engines_words() -> None:
    """An error carries what the engine said, even if that was no JSON."""
    version = b'{"ApiVersion":"1.41","MinAPIVersion":"1.12"}'
    async with serving(Served(200, version), Served(500, b'{"message":"out of luck"}'), Served(500, b"<html>")) as server:
        engine = Engine(server.path)
        for words in ("out of luck", "<html>"):
            with pytest.raises(Unknown, match=words):
                await engine.get("/containers/json")
        engine.close()


def test_text_that_is_no_utf_8() -> None:
    """Bytes that the engine would silently replace are refused."""
    with pytest.raises(InvalidArgument):
        encoded({"Env": ["A=\udcff"]})
