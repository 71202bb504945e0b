"""The first page of the repository has what a newcomer looks for, in that order."""

from tests.docs.pages import ROOT

README = (ROOT / "README.md").read_text()


def test_its_order() -> None:
    """A screen, two commands, a whole backend, the measured table with its picture, and who it is not for."""
    pieces = [
        "docs/pictures/play.svg",
        "make demo",
        "class MinimalBackend",
        "| whole pod start, ms |",
        "docs/pictures/bench.svg",
    ]
    places = [README.index(piece) for piece in [*pieces, "It is not for"]]
    assert sorted(places) == places


def test_its_numbers_are_those_of_the_page_on_performance() -> None:
    """Each row of the measured table stands on docs/performance.md, too."""
    rows = [line for line in README.partition("## Speed")[2].partition("![")[0].splitlines() if line.startswith("| ")]
    assert 5 < len(rows)
    assert set() == set(rows) - set((ROOT / "docs" / "performance.md").read_text().splitlines())
