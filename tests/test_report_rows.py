"""What the analysis may add to its rows, and where the report shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from report_page import Page, cells, rebuilt, results
from synthetic_aggregate import Size, write

from personaspace.analysis.results import Results
from personaspace.report.figures.draw import drawings

pytestmark = pytest.mark.long

LAYERS = (7, 14, 20)
WARNING = "Made up: the moon was full."


def spread(layer: int, value: float) -> dict[str, Any]:
    return {"metric": "M2", "variant": "recommended", "name": "condition_spread", "method": "a",
            "layer": layer, "seed": 42, "value": value, "ci95": [value / 2, 2 * value],
            "effect": value / 0.25, "p": 0.04}  # fmt: skip


def enriched(found: dict[str, Any]) -> dict[str, Any]:
    for row in found["leakage"]:
        if (row["metric"], row["variant"], row["name"]) == ("H3", "recommended", "common_set"):
            row |= {"p_floor": 1 / 60, "effect_name": "slope of the rate"}
        if (row["metric"], row["name"], row["variant"]) == (
            "H1", "induction_minus_others", "recommended",
        ):  # fmt: skip
            row |= {"warning": WARNING, "effect_name": "Cohen's h"}
    ours = ("condition_spread", "convergence_layer")
    found["geometry"] = [row for row in found["geometry"] if row["name"] not in ours]
    found["geometry"] += [
        spread(layer, v) for layer, v in zip(LAYERS, (0.2, 0.06, 0.02), strict=True)
    ]
    found["geometry"].append(
        {"metric": "M2", "variant": "recommended", "name": "convergence_layer", "method": "a",
         "seed": 42, "value": 20, "ci95": [14, 20]}
    )  # fmt: skip
    measure = {"variant": "recommended", "null": "none", "effect": "e"}
    found["measures"] = [
        {**measure, "metric": "H1", "name": "equivalence", "title": "within 5 points",
         "shows": "Shows a trend.", "cannot": "Cannot show a cause."},
        {**measure, "metric": "M1", "name": "raw_cosine", "title": "mean cosine",
         "shows": "Shows alikeness.", "cannot": "Cannot show why."},
    ]  # fmt: skip
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = Size(conditions=6, personas=8, layers=LAYERS, methods=("a",), questions=6, samples=2)
    return write(tmp_path_factory.mktemp("aggregate"), size)


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return rebuilt(folder, enriched(results(folder)), tmp_path_factory.mktemp("report"))


def test_effect_sizes_are_named_and_the_smallest_p_is_told(page: Page) -> None:
    h3 = next(row for row in cells(page, "tests-table") if row[0] == "H3")
    assert h3[5].endswith("slope of the rate") and h3[6].endswith("at best 0.017")


def test_failed_assumptions_stand_at_the_number_once_in_words(page: Page, folder: Path) -> None:
    rows = [row for row in cells(page, "tests-table") if row[0] == "H1"]
    assert len(rows) == 4 and all("\u26a0" in row[4] for row in rows)
    notes = [text for text in page.text("li") if text == f"An assumption failed: {WARNING}"]
    links = {a["href"] for a in page.all("a") if a.get("class") == "warning"}
    assert any(link.startswith("#tests-table-note-") for link in links)
    assert len(notes) == 2, "one for the tests, one for all rows; not one for each number"
    found = results(folder)
    failed = [row for row in found["geometry"] + found["leakage"] if row.get("warning")]
    first = [row for row in failed if row["method"] is None or row["layer"] == 20]
    assert len(first) >= 4
    (told,) = [text for text in page.text("li") if "rest on an assumption that fails" in text]
    assert told.startswith(f"{len(first)} numbers at layer 20, method A, or of leakage rest on")
    others = len(failed) - len(first)
    assert (f"At other layers and by other methods: {others}, each" in told) == (others > 0)


def test_what_measures_show_and_cannot_show_is_a_table(page: Page) -> None:
    assert cells(page, "tests-meaning") == [
        ["H1: within 5 points", "recommended", "none", "Shows a trend.", "Cannot show a cause.",
         "e"]
    ]  # fmt: skip
    assert [row[0] for row in cells(page, "m1-meaning")] == ["M1: mean cosine"]
    assert ["H1", "within 5 points"] in [row[:2] for row in cells(page, "checks-table")]


def test_spread_over_conditions_and_where_it_vanishes_are_a_figure(
    page: Page, folder: Path
) -> None:
    drawing = {p.id: p for p in drawings(folder, Results.read(folder), "")}["m2-convergence"]
    data = drawing.data[drawing.data.measure == "condition_spread"]
    assert list(data.layer) == list(LAYERS) and list(data.value) == [0.2, 0.06, 0.02]
    assert data.mean_shift.tolist() == pytest.approx([0.25] * 3)
    assert "below a tenth of the mean shift from layer 20 on" in drawing.alt
    assert "figure-m2-convergence" in [figure["id"] for figure in page.all("figure")]
    assert any("M2: from layer 20 on" in text for text in page.text("li"))
    for narrow in (False, True):
        axes = drawing.paint(narrow).axes[0]
        limits = axes.get_ylim()
        assert limits[0] == 0 and limits[1] > 0.4, "the interval fits"
        assert [text.get_text() for text in axes.texts] == ["20"]


def test_measures_stand_beside_each_other(page: Page, folder: Path) -> None:
    found = results(folder)["geometry"]

    def row(variant: str, name: str) -> dict[str, Any]:
        key = ("M1", variant, name, "e0-assistant", 20)
        (one,) = [
            r
            for r in found
            if tuple(map(r.get, ("metric", "variant", "name", "condition", "layer"))) == key
            and r["target"] == ("these_personas" if variant == "recommended" else None)
        ]
        return dict(one)

    line = next(
        cell for cell in cells(page, "m1-published-vs-recommended") if cell[0] == "E0 assistant"
    )
    published, ours = row("published", "raw_cosine"), row("recommended", "raw_cosine")
    assert line[1].startswith(f"{published['value']:.3f}")
    assert line[2] == f"{published['delta']:+.3f}"
    assert line[4].startswith(f"{ours['value']:.3f}")
    assert line[5].startswith(f"{row('recommended', 'raw_cosine_delta')['value']:+.3f} [")
    assert line[-2].startswith(f"{row('recommended', 'em_minus_benign')['value']:+.3f} [")
    base = next(
        cell for cell in cells(page, "m1-published-vs-recommended") if cell[0] == "Base model"
    )
    assert base[1] == f"{published['base']:.3f}" and base[4] == f"{ours['base']:.3f}"


def test_leakage_is_counted_in_other_ways(page: Page, folder: Path) -> None:
    heads = ["all bystanders", "bystanders in every EM condition", "unseen questions"]
    titles = page.text("th", scope="col")
    assert all(head in titles for head in heads)
    line = next(row for row in cells(page, "ways-table") if row[0] == "E0 assistant")
    (common,) = [
        r["value"]
        for r in results(folder)["leakage"]
        if (r["metric"], r["name"], r["condition"], r["variant"])
        == ("bystander_mean", "common_set", "e0-assistant", "recommended")
    ]
    assert line[2].startswith(f"{100 * common:.1f}")


def shrunk(row: dict[str, Any]) -> dict[str, Any]:
    """A row of geometry whose effects are three powers of ten smaller."""
    if row["metric"] != "M1" or row["value"] is None:
        return row
    found = dict(row)
    zero = row["base"] if row["base"] is not None and not row["name"].endswith("_delta") else 0.0

    def small(value: float) -> float:
        return float(zero + 1e-3 * (value - zero))

    found["value"] = small(row["value"])
    found["delta"] = 1e-3 * row["delta"] if row["delta"] is not None else None
    found["ci95"] = [small(end) for end in row["ci95"]] if row["ci95"] else None
    return found


def test_effects_below_a_thousandth_are_neither_nothing_nor_one_number(
    folder: Path, tmp_path: Path
) -> None:
    """On the page and in Markdown: no signed zero, no interval whose ends print alike."""
    found = enriched(results(folder))
    found["geometry"] = [shrunk(row) for row in found["geometry"]]
    page = rebuilt(folder, found, tmp_path)
    every = [" ".join("".join(part).split()) for part in page.texts.values()]
    every += (tmp_path / "report.md").read_text("utf-8").replace("\\", "").split("\n")
    assert any(re.search(r"\+0\.0000\d+ \[", text) for text in every), "nothing small is there"
    for text in every:
        assert not re.search(r"[+\u2212]0\.?0*(?![\d.\u00b7])", text), text
        assert not re.search(r"\[([\d.+\u2212]+), \1\]", text), text
        assert not re.search(r"(?<![\d.])(0\.0+\u202f%) to \1", text), text
