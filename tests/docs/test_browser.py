"""The site in Chromium, wide and narrow, light and dark: it fits, logs no errors, fetches nothing; its search finds terms."""

import functools
import http.server
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import pytest

from docs.tools.contents import sections
from tests.docs.pages import ROOT
from tests.docs.test_site import CONTENTS, build

CHROMIUM: Final = shutil.which("chromium")
PAGES: Final = [page.path.removesuffix(".md") for pages in sections(CONTENTS).values() for page in pages]
WIDTHS: Final = (1280, 390)
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
TERMS: Final = {
    "grace period": "lifecycle",
    "mirror": "how-to/registries",
    "inventory": "reference/contract",
    "exec_process": "writing-a-shim",
    "SupportsAttach": "reference/capabilities",
    "cgroup_driver": "reference/configuration",
    "checkpoint": "operating",
    "FailedPrecondition": "reference/errors",
    "crishim_rpcs_total": "metrics",
    "port-forward": "streaming",
}
"""Ten terms, each with a page that must be among the first results."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


@attrs.frozen
class Site:
    """Where the site is served, and its folder."""

    url: str
    folder: Path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing is printed for a request."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The manual, built and served on the loopback interface."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", folder)
    assert (0, "") == (done.returncode, done.stdout + done.stderr)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{server.server_port}", folder)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a sandbox of its own where root runs it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=SCHEMES)
def view(browser: Any, request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str]]]:
    """A window of one colour scheme, and what went wrong in it: errors of its console, and requests."""
    context = browser.new_context(color_scheme=request.param)
    page, seen = context.new_page(), list[str]()
    page.on("console", lambda message: seen.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda each: seen.append(each.url) if not each.url.startswith("http://127.0.0.1:") else None)
    page.on("response", lambda each: seen.append(f"{each.status} {each.url}") if each.status >= 400 else None)
    yield page, seen
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits(view: tuple[Any, list[str]], site: Site, name: str) -> None:
    """The page has no horizontal scroll bar, on a wide screen no table has, nothing fails, and no other host is asked."""
    page, seen = view
    del seen[:]
    page.goto(f"{site.url}/{name}.html")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        wide, there = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= there, f"at {width}: {_widest(page)}"
        if width == max(WIDTHS):
            assert [] == page.evaluate(_CUT_OFF)
    assert [] == seen


def test_light_and_dark_differ(browser: Any, site: Site) -> None:
    """The page is light or dark as the reader's system is."""
    backgrounds = []
    for scheme in SCHEMES:
        page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        page.goto(f"{site.url}/index.html")
        backgrounds.append(page.evaluate(_BACKGROUND))
        page.close()
    light, dark = (sum(map(int, rgb)) for rgb in backgrounds)
    assert (True, True) == (light > 600, dark < 200), backgrounds


def test_commands_are_copied_without_prompts(browser: Any, site: Site) -> None:
    """The button of a console copies its commands, without prompts and output."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{site.url}/tutorial.html")
    block = page.locator(".highlight-console", has_text="crishim play pod.yaml").first
    block.hover()
    block.locator("button.copybtn").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    context.close()
    assert "python -m crishim play pod.yaml --backend minimal_backend:plugin" == copied.strip()


@pytest.mark.parametrize("term", TERMS)
def test_the_search_finds(browser: Any, site: Site, term: str) -> None:
    """A reader who looks for a term finds its page among the first ten."""
    page = browser.new_page()
    page.goto(f"{site.url}/search.html?q={urllib.parse.quote(term)}")
    assert f"{TERMS[term]}.html" in _found(page, site.url)[:10]
    page.close()


def test_the_search_needs_no_server(browser: Any, site: Site) -> None:
    """The search works in a folder, too, without any server."""
    page = browser.new_page()
    page.goto(f"{site.folder.as_uri()}/search.html?q=inventory")
    assert "reference/contract.html" in _found(page, site.folder.as_uri())
    page.close()


_CUT_OFF: Final = """
[...document.querySelectorAll('.table-wrapper')].filter(each => each.scrollWidth > each.clientWidth)
    .map(each => each.textContent.slice(0, 60))
"""
_BACKGROUND: Final = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"


def _found(page: Any, root: str) -> list[str]:
    """The pages that a search has found, the best first."""
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('finished')", timeout=20_000)
    links = page.eval_on_selector_all("#search-results li > a", "links => links.map(link => link.href)")
    return list(dict.fromkeys(link.removeprefix(f"{root}/").partition("?")[0].partition("#")[0] for link in links))


def _widest(page: Any) -> str:
    """The elements that reach beyond the window, for a message."""
    return str(
        page.evaluate(
            "[...document.querySelectorAll('body *')]"
            ".filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)"
            ".map(each => `${each.tagName}.${each.className}: ${each.textContent.slice(0, 60)}`).slice(-5)"
        )
    )
