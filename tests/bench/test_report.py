import xml.etree.ElementTree as ET
from pathlib import Path

from bench.report import Row, load, markdown, picture, save

ROWS = [
    Row("pod start", "ms", {"runc": 20.0, "containerd": 40.0}),
    Row("pods & more", "1/s", {"containerd": 10.0, "runc": 20.0}, more=True),
    Row("only ours", "ms", {"runc": 1.0}),
]


def test_ratios_are_costs() -> None:
    """A ratio is a multiple of containerd's cost, for rates as well; without a value there is none."""
    assert [0.5, 0.5, None] == [row.ratio("runc") for row in ROWS]


def test_a_table_has_values_and_ratios() -> None:
    """Containerd is the first column, and every other value has its ratio in brackets."""
    assert [
        "| | containerd | runc |",
        "|---|---|---|",
        "| pod start, ms | 40.0 | 20.0 (0.50) |",
        "| pods & more, 1/s | 10.0 | 20.0 (0.50) |",
        "| only ours, ms |  | 1.00 |",
    ] == markdown(ROWS).splitlines()


def test_a_picture_has_a_bar_for_each_ratio() -> None:
    """The picture is one of valid XML, with the names and values of the rows that containerd has."""
    texts = [element.text for element in ET.fromstring(picture(ROWS)).iter() if element.tag.endswith("text")]
    assert [True, True, True, False] == [text in texts for text in ("pod start", "pods & more", "0.50 (20.0 ms)", "only ours")]


def test_rows_are_saved_and_loaded(tmp_path: Path) -> None:
    """What a bench has written is what the picture is drawn from."""
    save(str(tmp_path / "rows.json"), ROWS)
    assert ROWS == load(tmp_path / "rows.json")
