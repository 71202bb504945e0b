import asyncio
import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim import app
from crishim.config import Config, parse
from crishim.cri import pb
from crishim.errors import FailedPrecondition, InvalidArgument
from crishim.interfaces.backend import NetnsSource
from crishim.interfaces.plugin import Plugin
from crishim.model.image import ImageSpec
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import FrozenDict
from crishim.play import CallError, connect
from crishim.plugins import PluginError
from crishim.testing import FakeBackend
from crishim.testing.harness import container_config, sandbox_config
from tests.certificates import self_signed

PROCESS = "crishim.backends.process:plugin"
FAKE = "crishim.testing.fakes:plugin"


def config_in(folder: Path, backend: str = FAKE, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "listen": str(folder / "cri.sock"),
        "state": str(folder / "state"),
        "runtime_state": str(folder / "run"),
        "handlers": FrozenDict({"": "mine"}),
        "backends": FrozenDict({"mine": FrozenDict({"plugin": backend})}),
    }
    return Config(**{**values, **changes})


needy = Plugin(build=lambda _: FakeBackend(netns=NetnsSource.LIBRARY))
"""A plug-in that relies on the node's namespaces, and does not say so."""

ON_THE_NODE = LinuxPodSandboxConfig(
    security_context=LinuxSandboxSecurityContext(namespace_options=NamespaceOption(network=NamespaceMode.NODE))
)


def mode(path: str) -> int | None:
    """The permissions of a file; None if it is not there."""
    return Path(path).stat().st_mode & 0o777 if Path(path).exists() else None


async def test_a_whole_runtime_from_a_configuration(tmp_path: Path) -> None:
    """CRI, streams, images and deadlines are there, over a socket that only its owner may use."""
    config = config_in(tmp_path, PROCESS, cgroup_driver="systemd")
    async with app.running(config, ephemeral=True), connect(f"unix://{config.listen}") as client:
        assert 0o600 == mode(config.listen)
        assert {True} == {condition.status for condition in (await client.status()).conditions}
        assert "systemd" == await client.cgroup_driver()
        sandbox = sandbox_config("pod", log_directory=str(tmp_path / "logs"))
        sandbox_id = await client.run_sandbox(sandbox)
        await client.pull_image(ImageSpec(image="host:any"), sandbox)
        main = container_config("main", "sh", "-c", "exec sleep 1000", image=ImageSpec(image="host:any"), log_path="0.log")
        container_id = await client.create_container(sandbox_id, main, sandbox)
        await client.start_container(container_id)
        assert b"hi\n" == (await client.exec_sync(container_id, ("echo", "hi"), 30)).stdout
        request = pb.ExecRequest(container_id=container_id, cmd=["true"], stdout=True)
        reply = pb.ExecResponse.FromString(await client.call("Exec", request.SerializeToString(), 30))
        assert reply.url.startswith("http://127.0.0.1:")
    assert mode(config.listen) is None


async def test_containers_go_on_without_us(tmp_path: Path) -> None:
    """A runtime that ends leaves its containers running, and the next one finds them; an ephemeral one takes them along."""
    config = config_in(tmp_path, PROCESS)
    async with app.running(config), connect(f"unix://{config.listen}") as client:
        sandbox = sandbox_config("pod")
        sandbox_id = await client.run_sandbox(sandbox)
        await client.pull_image(ImageSpec(image="host:any"), sandbox)
        main = container_config("main", "sleep", "1000", image=ImageSpec(image="host:any"))
        container_id = await client.create_container(sandbox_id, main, sandbox)
        await client.start_container(container_id)
    async with app.running(config, ephemeral=True), connect(f"unix://{config.listen}") as client:
        assert pb.CONTAINER_RUNNING == (await client.container_status(container_id)).state
        await client.stop_container(container_id, 0)
        await client.remove_sandbox(sandbox_id)


async def test_one_socket_has_one_server(tmp_path: Path) -> None:
    """A second runtime on the same socket is refused, and the first continues."""
    first, second = tmp_path / "first", tmp_path / "second"
    config = config_in(first)
    async with app.running(config), connect(f"unix://{config.listen}") as client:
        with pytest.raises(FailedPrecondition):
            async with app.running(attrs.evolve(config_in(second), listen=config.listen)):
                pass
        assert "crishim" == (await client.version()).runtime_name


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("none", {}, "backend 'none': is not installed"),
        (PROCESS, {"colour": "red"}, "backend 'mine': options.colour: is not known"),
        ("pathlib:Path", {}, "backend 'pathlib:Path': pathlib:Path is a class, not a crishim.Plugin; "),
    ],
)
async def test_a_broken_backend_stops_the_start(tmp_path: Path, backend: str, options: dict[str, str], message: str) -> None:
    """A backend that is missing, or refuses its options, stops the start with its name, and no socket is left."""
    config = config_in(tmp_path, backends=FrozenDict({"mine": FrozenDict({"plugin": backend, **options})}))
    with pytest.raises(PluginError) as refused:
        async with app.running(config):
            pass
    assert refused.value.message.startswith(message)
    assert mode(config.listen) is None


def test_files_are_read_in_order(tmp_path: Path) -> None:
    """The file comes first, then conf.d/*.toml beside it by name; other files there are not read."""
    main = tmp_path / "crishim.toml"
    main.write_text('listen = "/1"\nstate = "/1"\nruntime_state = "/1"\n')
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "20.toml").write_text('listen = "/20"\n')
    (tmp_path / "conf.d" / "10.toml").write_text('listen = "/10"\nstate = "/10"\n')
    (tmp_path / "conf.d" / "30.toml.off").write_text("nonsense")
    config = app.read_config(main)
    assert ("/20", "/10", "/1") == (config.listen, config.state, config.runtime_state)
    (tmp_path / "conf.d" / "20.toml").write_text("listem = 1\n")
    with pytest.raises(InvalidArgument) as refused:
        app.read_config(main)
    assert refused.value.field == f"{tmp_path}/conf.d/20.toml: listem"


def test_a_file_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default file may be missing; an explicit one may not."""
    monkeypatch.setattr(app, "CONFIG_FILE", tmp_path / "none.toml")
    assert Config() == app.read_config()
    with pytest.raises(InvalidArgument):
        app.read_config(tmp_path / "none.toml")


async def test_a_certificate_that_cannot_be_had_stops_the_start(tmp_path: Path) -> None:
    """A certificate that cannot be read is refused by its key."""
    config = config_in(tmp_path)
    streaming = attrs.evolve(config.streaming, certificate=str(tmp_path / "none.pem"))
    with pytest.raises(InvalidArgument) as refused:
        async with app.running(attrs.evolve(config, streaming=streaming)):
            pass
    assert "streaming.certificate" == refused.value.field


async def test_a_certificate_is_rotated(tmp_path: Path) -> None:
    """A certificate that was replaced is the one of the next connection, and a broken one leaves the old."""

    def issue(name: str) -> None:
        certificate, key = self_signed(tmp_path, name)
        key.replace(tmp_path / "tls.key")
        certificate.replace(tmp_path / "tls.pem")

    async def seen(port: int) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        assert isinstance(certificate, bytes)
        return certificate

    issue("one")
    text = f'streaming.certificate = "{tmp_path}/tls.pem"\nstreaming.private_key = "{tmp_path}/tls.key"'
    config = parse([("test", text.encode())])
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=app._tls(config))
    port = server.sockets[0].getsockname()[1]
    async with server:
        first = await seen(port)
        assert first == await seen(port)
        issue("two")
        second = await seen(port)
        assert first != second
        (tmp_path / "tls.pem").write_text("nonsense")
        assert second == await seen(port)


async def test_pods_without_their_network_are_refused(tmp_path: Path) -> None:
    """A backend that needs namespaces which are not created gets no pod with a network of its own."""
    async with (
        app.running(config_in(tmp_path, "tests.test_app:needy")) as services,
        connect(f"unix://{tmp_path}/cri.sock") as client,
    ):
        assert services.ready
        with pytest.raises(CallError, match="needs_node"):
            await client.run_sandbox(sandbox_config("pod"))
        assert await client.run_sandbox(sandbox_config("on-the-node", linux=ON_THE_NODE))
