import asyncio
import http.client
from urllib.parse import urlsplit

import pytest

from crishim.errors import InvalidArgument
from crishim.metrics.endpoint import scraped, split_address
from crishim.metrics.prometheus import Metrics


def ask(url: str, *requests: tuple[str, str, dict[str, str]]) -> list[tuple[int, str, bytes]]:
    """Status, content type and body of each request, all on one connection."""
    answers = []
    client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    for method, path, headers in requests:
        client.request(method, path, headers=headers)
        reply = client.getresponse()
        answers.append((reply.status, reply.headers["content-type"], reply.read()))
    client.close()
    return answers


async def talk(url: str, data: bytes) -> bytes:
    """Everything that is answered to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_metrics_are_read_by_get() -> None:
    """GET returns the metrics in the scraper's format, HEAD none, other paths 404 and other methods 405, on one connection."""
    openmetrics = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    async with scraped(Metrics("1"), ":0") as url:
        plain, om, head, path, method = await asyncio.to_thread(
            ask,
            url,
            ("GET", "/metrics", {}),
            ("GET", "/metrics?x=1", openmetrics),
            ("HEAD", "/metrics", {}),
            ("GET", "/", {}),
            ("POST", "/metrics", {}),
        )
    assert (200, True, True) == (plain[0], plain[1].startswith("text/plain"), b"crishim_build_info" in plain[2])
    assert (200, True, True) == (om[0], om[1].startswith("application/openmetrics-text"), om[2].endswith(b"# EOF\n"))
    assert (200, b"") == (head[0], head[2])
    assert [404, 405] == [path[0], method[0]]


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n", b"GET / " + b"x" * 100_000])
async def test_what_is_no_http_is_refused(data: bytes) -> None:
    """Nonsense, a request without a host, and a head without end are answered with 400."""
    async with scraped(Metrics("1"), ":0") as url:
        assert (await talk(url, data)).startswith(b"HTTP/1.1 400 ")


async def test_a_silent_client_does_not_hold_up_the_end() -> None:
    """The endpoint ends beside a client that has said nothing, and one that left in the middle of its request."""
    async with scraped(Metrics("1"), ":0") as url:
        _, silent = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        assert (await talk(url, b"GET /metr")).startswith(b"HTTP/1.1 400 ")
    silent.close()
    await silent.wait_closed()


@pytest.mark.parametrize(
    ("address", "expected"),
    [(":9464", ("127.0.0.1", 9464)), ("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:80", ("::1", 80))],
)
def test_an_address_is_host_and_port(address: str, expected: tuple[str, int]) -> None:
    """No host is the loopback."""
    assert expected == split_address(address)


@pytest.mark.parametrize("address", ["", "9464", "host:", "host:http", ":65536"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """The key is named."""
    with pytest.raises(InvalidArgument) as refused:
        split_address(address)
    assert "metrics_address" == refused.value.field
