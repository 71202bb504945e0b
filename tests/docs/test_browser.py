"""The site in Chromium, wide and narrow, light and dark: it fits, logs no errors, fetches nothing; its search finds terms."""

import contextlib
import functools
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

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


ORIGIN: Final = "http://localhost"
"""Where the browser believes the site to be. No server is there: requests are answered with files. Chromium aborts requests to
servers whenever an interface of the machine comes or goes (ERR_NETWORK_CHANGED), and other tests make such interfaces.
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manual, built."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", folder)
    assert (0, "") == (done.returncode, done.stdout + done.stderr)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a sandbox of its own where root runs it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextlib.contextmanager
def window(browser: Any, site: Path, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A window, and what goes wrong in it: messages of its console, and requests for what the site does not have."""
    context, seen = browser.new_context(**options), list[str]()
    context.route("**/*", functools.partial(_answer, site, seen))
    page = context.new_page()
    page.on("console", lambda message: seen.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    yield page, seen
    context.unroute_all(behavior="ignoreErrors")
    context.close()


def _answer(site: Path, seen: list[str], route: Any) -> None:
    path = urllib.parse.urlsplit(route.request.url).path
    if route.request.url.startswith(f"{ORIGIN}/") and (site / path[1:]).is_file():
        route.fulfill(path=site / path[1:])
    else:
        seen.append(route.request.url)
        route.abort()


@pytest.fixture(scope="module", params=SCHEMES)
def view(browser: Any, site: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str]]]:
    """A window of one colour scheme."""
    with window(browser, site, color_scheme=request.param) as opened:
        yield opened


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits(view: tuple[Any, list[str]], name: str) -> None:
    """The page has no horizontal scroll bar, on a wide screen no table has, nothing fails, and no other host is asked."""
    page, seen = view
    del seen[:]
    page.goto(f"{ORIGIN}/{name}.html")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        wide, there = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= there, f"at {width}: {_widest(page)}"
        if width == max(WIDTHS):
            assert [] == page.evaluate(_CUT_OFF)
    assert [] == seen


def test_light_and_dark_differ(browser: Any, site: Path) -> None:
    """The page is light or dark as the reader's system is."""
    backgrounds = []
    for scheme in SCHEMES:
        with window(browser, site, color_scheme=scheme) as (page, _):
            page.goto(f"{ORIGIN}/index.html")
            backgrounds.append(page.evaluate(_BACKGROUND))
    light, dark = (sum(map(int, rgb)) for rgb in backgrounds)
    assert (True, True) == (light > 600, dark < 200), backgrounds


def test_commands_are_copied_without_prompts(browser: Any, site: Path) -> None:
    """The button of a console copies its commands, without prompts and output."""
    with window(browser, site, permissions=["clipboard-read", "clipboard-write"]) as (page, _):
        page.goto(f"{ORIGIN}/tutorial.html")
        block = page.locator(".highlight-console", has_text="crishim play pod.yaml").first
        block.hover()
        block.locator("button.copybtn").click()
        copied = page.evaluate("navigator.clipboard.readText()")
    assert "python -m crishim play pod.yaml --backend minimal_backend:plugin" == copied.strip()


@pytest.mark.parametrize("term", TERMS)
def test_the_search_finds(browser: Any, site: Path, term: str) -> None:
    """A reader who looks for a term finds its page among the first ten."""
    with window(browser, site) as (page, _):
        page.goto(f"{ORIGIN}/search.html?q={urllib.parse.quote(term)}")
        found = _found(page, ORIGIN)
    assert f"{TERMS[term]}.html" in found[:10]


def test_the_search_needs_no_server(browser: Any, site: Path) -> None:
    """The search works in a folder, too, without any server."""
    page = browser.new_page()
    page.goto(f"{site.as_uri()}/search.html?q=inventory")
    found = _found(page, site.as_uri())
    page.close()
    assert "reference/contract.html" in found


_CUT_OFF: Final = """
[...document.querySelectorAll('.table-wrapper')].filter(each => each.scrollWidth > each.clientWidth)
    .map(each => each.textContent.slice(0, 60))
"""
_BACKGROUND: Final = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"


def _found(page: Any, root: str) -> list[str]:
    """The pages that a search has found, the best first."""
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('finished')", polling=50)
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
