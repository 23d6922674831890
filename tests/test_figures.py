"""Figures: what they show, that they are legible, and that their bytes are always the same."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import once_value
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from synthetic_aggregate import Size, write

from personaspace.analysis.results import Results
from personaspace.errors import UserError
from personaspace.report.figures import Figure, Style, draw, draw_hero, style
from personaspace.report.figures.draw import drawings
from personaspace.report.figures.drawing import Drawing
from personaspace.study.concluding import Figures

pytestmark = pytest.mark.slow

SIZES = {
    "published": Size(),
    "large": Size(conditions=8, layers=tuple(range(0, 28, 3)), seeds=(42, 137), methods=("b",)),
    "small": Size(conditions=2, personas=3, layers=(3, 12, 20), methods=("a",)),
    "one-layer": Size(conditions=4, layers=(20,), seeds=(1, 2)),
}
SVG = Figures(formats=["svg"])


@pytest.fixture(
    scope="module",
    params=["published", *(pytest.param(size, marks=pytest.mark.long) for size in [*SIZES][1:])],
)
def aggregate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp(request.param), SIZES[request.param])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def figures(published: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    def make(out: Path) -> dict[str, Figure]:
        drawn = draw(published, out, Figures(formats=["png", "svg", "pdf"], dpi=80))
        return {figure.id: figure for figure in drawn}

    return once_value(tmp_path_factory, "figures", make)


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def planned(folder: Path, title: str = "") -> dict[str, Drawing]:
    """The figures before they are drawn: words and data are settled then."""
    return {drawing.id: drawing for drawing in drawings(folder, Results.read(folder), title)}


@pytest.mark.long
def test_every_figure_is_written_in_every_format_with_alt_text(
    figures: dict[str, Figure],
) -> None:
    assert list(figures) == [
        "hero",
        "personas",
        "m1-layers",
        "m1-increment",
        "m2-layers",
        "m2-convergence",
        "m3-layers",
        "persona-plane",
        "axis-positions",
        "cosine-matrices",
        "leakage-geometry",
        "training",
    ]
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for figure in figures.values():
        assert len(figure.alt) > 60 and len(figure.caption) > 30
        assert set(figure.files) == set(starts)
        for kind, path in figure.files.items():
            assert path.name == f"{figure.id}.{kind}"
            assert path.read_bytes().startswith(starts[kind])
        assert figure.svg.encode() == figure.files["svg"].read_bytes()
        assert figure.svg != figure.svg_narrow


@pytest.mark.long
def test_same_folder_gives_same_bytes(
    published: Path, figures: dict[str, Figure], tmp_path: Path
) -> None:
    again = draw(published, tmp_path, Figures(formats=["pdf", "svg", "png"], dpi=80))
    for figure in again:
        for kind, path in figure.files.items():
            assert path.read_bytes() == figures[figure.id].files[kind].read_bytes(), path.name
        assert figure.svg_narrow == figures[figure.id].svg_narrow
    # Another day, or another release of the library, must not show in the bytes either.
    stamps = {".png": b"atplotlib", ".svg": b"<dc:date>", ".pdf": b"CreationDate"}
    for path in tmp_path.iterdir():
        assert stamps[path.suffix] not in path.read_bytes(), path.name


def test_hero_shows_the_results_numbers(published: Path, figures: dict[str, Figure]) -> None:
    data = figures["hero"].data
    found = results(published)
    means = data[(data.panel == "A") & (data.role == "mean")].set_index("condition")
    compared = 0
    for entry in found["leakage"]:
        kind = (entry["metric"], entry["variant"], entry["name"])
        shown = kind == ("bystander_mean", "recommended", None)
        if shown and entry["target"] == "these_personas":
            compared += 1
            mine = means.loc[entry["condition"]]
            assert mine.value == entry["value"]
            assert [mine.ci_low, mine.ci_high] == entry["ci95"]
    assert compared > 0
    cosines = data[data.panel == "B"].set_index("condition").value
    rows = [
        r
        for r in found["geometry"]
        if (r["variant"], r["name"], r["layer"], r["method"], r["target"])
        == ("recommended", "raw_cosine", 20, "a", None)
    ]
    assert len(rows) == 6
    for entry in rows:
        assert cosines[entry["condition"]] == pytest.approx(entry["value"], abs=1e-12)
        assert cosines["base"] == pytest.approx(entry["base"], abs=1e-12)
    for label, value in zip(means.label, means.value, strict=True):
        assert f"{label} {100 * value:.1f}" in figures["hero"].alt


def test_hero_roles_leave_source_and_induction_out(tmp_path: Path) -> None:
    """Without rows of the analysis the mean is that of the bystanders' rates alone."""
    folder = write(tmp_path / "in", without=("leakage", "geometry"))
    hero = planned(folder)["hero"].data
    villain = hero[hero.condition == "e4-villain"]
    assert set(villain[villain.role == "source"].persona) == {"confab"}
    assert set(villain[villain.role == "induction"].persona) == {"villain"}
    assert set(villain[villain.role == "negative"].persona) == {"data_scientist", "police_officer"}
    rates = {
        r["persona"]: r["hits"] / r["total"]
        for r in results(folder)["rates"]
        if r["condition"] == "e4-villain" and r["persona"] not in ("confab", "villain")
    }
    assert len(rates) == 11
    mean = villain[villain.role == "mean"].value.item()
    assert mean == pytest.approx(np.mean(list(rates.values())))


def test_layer_profiles_show_the_rows(published: Path, figures: dict[str, Figure]) -> None:
    found = results(published)["geometry"]
    wanted = {
        "m1-layers": ("M1", "recommended", "raw_cosine", "value"),
        "m2-layers": ("M2", "recommended", "split_half_delta", "value"),
        "m3-layers": ("M3", "recommended", "nearest_centroid_above_chance", "value"),
    }
    for name, (metric, variant, sub, field) in wanted.items():
        data = figures[name].data.set_index(["method", "layer", "condition"]).value
        rows = [
            r for r in found if (r["metric"], r["variant"], r["name"]) == (metric, variant, sub)
        ]
        assert rows
        for entry in rows:
            place = (entry["method"], entry["layer"], entry["condition"])
            assert data[place] == pytest.approx(entry[field])
    # Base stands in M1 through the other rows, and has no place in a change from base.
    assert "base" in set(figures["m1-layers"].data.condition)
    assert "base" not in set(figures["m2-layers"].data.condition)
    assert "chance, 0.077" in figures["m3-layers"].alt


def test_published_m2_is_drawn_as_its_change_from_base(published: Path, tmp_path: Path) -> None:
    found = results(published)
    found["geometry"] = [r for r in found["geometry"] if r["variant"] == "published"]
    (tmp_path / "results.json").write_text(json.dumps(found))
    data = planned(tmp_path)["m2-layers"].data.set_index(["method", "layer", "condition"]).value
    rows = [r for r in found["geometry"] if r["name"] == "axis_shift"]
    assert len(rows) == 60
    for entry in rows:
        change = entry["value"] - entry["base"]
        assert data[entry["method"], entry["layer"], entry["condition"]] == pytest.approx(change)


def test_seeds_are_averaged_and_kept(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", SIZES["one-layer"])
    data = planned(folder)["m1-layers"].data
    mine = data[(data.condition == "e0-assistant") & (data.method == "b")]
    assert sorted(mine.seed.dropna()) == [1, 2]
    overall = mine[mine.seed.isna()].value.item()
    assert overall == pytest.approx(mine[mine.seed.notna()].value.mean())


def test_pooled_row_wins_over_mean_of_seeds(tmp_path: Path) -> None:
    """The recommended mean pools the seeds; the published ones stand beside it as ticks."""
    folder = write(tmp_path / "in", SIZES["one-layer"])
    data = planned(folder)["hero"].data
    mine = data[(data.condition == "e0-assistant") & (data.role == "mean") & (data.panel == "A")]
    rows = [
        r
        for r in results(folder)["leakage"]
        if r["metric"] == "bystander_mean" and r["condition"] == "e0-assistant"
    ]
    pooled = next(r for r in rows if (r["variant"], r["name"]) == ("recommended", None))
    overall = mine[mine.seed.isna()]
    assert overall.value.item() == pooled["value"]
    assert [overall.ci_low.item(), overall.ci_high.item()] == pooled["ci95"]
    singles = {r["seed"]: r["value"] for r in rows if r["variant"] == "published"}
    assert dict(mine[mine.seed.notna()][["seed", "value"]].to_numpy()) == singles
    assert len(singles) == 2


def drawn_texts(figure: Canvas) -> list[Text]:
    """Every text that ends up on the page: no hidden one, no tick outside its axis."""
    ticks: set[Text] = set()
    for axes in figure.axes:
        for axis, place in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            for label in [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]:
                if not axes.axison or not low <= label.get_position()[place] <= high:
                    ticks.add(label)
            if not axes.axison:
                ticks.add(axis.label)
    texts = figure.findobj(lambda artist: isinstance(artist, Text))
    return [
        text
        for text in texts
        if isinstance(text, Text)
        and text not in ticks
        and text.get_visible()
        and text.get_text().strip()
    ]


def assert_legible(figure: Canvas, name: str) -> None:
    """No text leaves the figure, and no two overlap: as it is laid out, and as files have it."""
    for dpi in (figure.get_dpi(), 160):
        figure.set_dpi(dpi)
        _assert_legible(figure, f"{name} at {dpi:g} dpi")


def _assert_legible(figure: Canvas, name: str) -> None:
    room = figure.bbox.padded(0.5)
    boxes = []
    with style.styled():
        figure.draw_without_rendering()  # as saving does
        for text in drawn_texts(figure):
            box = text.get_window_extent()
            inside = room.x0 <= box.x0 and box.x1 <= room.x1
            inside = inside and room.y0 <= box.y0 and box.y1 <= room.y1
            assert inside, f"{name}: {text.get_text()!r} is cut"
            if text.get_rotation() in (0, 90):
                boxes.append((text.get_text(), box.padded(-0.75)))
    assert len(boxes) > 5
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{name}: {one!r} overlaps {other!r}"


@pytest.mark.long
@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
def test_no_text_is_cut_or_overlaps(aggregate: Path, narrow: bool) -> None:
    read = Results.read(aggregate)
    for drawing in drawings(aggregate, read, "A title that is long enough to wrap"):
        assert_legible(drawing.paint(narrow), drawing.id)


SHAPES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "two columns of a page": {"width": 7.2},
    "one column": {"width": 5.25},
    "slide": {"width": 13.3, "height": 7.5},
    "serif": {"font_family": "DejaVu Serif", "width": 11},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("font_size", [8, 12])
def test_hero_of_ones_own_is_legible(aggregate: Path, font_size: float, shape: str) -> None:
    look = Style(font_size=font_size, **SHAPES[shape])
    results = Results.read(aggregate)
    figure = draw_hero(results, title="A title that is long enough to wrap", style=look)
    assert_legible(figure, shape)
    width, height = figure.get_size_inches()
    assert width == pytest.approx(look.width or style.WIDE * font_size / 8)
    assert look.height is None or height == look.height
    labels = [text for axes in figure.axes for text in axes.get_yticklabels() if text.get_text()]
    assert {text.get_fontsize() for text in labels} == {7.5 * font_size / 8}
    assert {text.get_fontname() for text in labels} == {look.font_family}


def test_hero_has_the_colours_that_are_set(published: Path) -> None:
    results = Results.read(published)
    colours = {"em": "#123456", "e4-villain": "tab:red", "base": "green"}
    faces = style.looks(results, Style(colours=colours))
    drawn = {name: to_hex(look.colour) for name, look in faces.items()}
    assert drawn["e4-villain"] == to_hex("tab:red") and drawn["e0-assistant"] == "#123456"
    assert drawn["base"] == to_hex("green") and drawn["benign"] == style.MUTED
    figure = draw_hero(results, style=Style(colours=colours, dpi=72))
    painted = {to_hex(line.get_color()) for axes in figure.axes for line in axes.lines}
    assert {"#123456", to_hex("tab:red"), to_hex("green")} <= painted
    assert figure.dpi == 72


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (Style(colours={"e9": "red"}), "style.colours: 'e9' is not a condition or kind (base, ben"),
        (Style(colours={"em": "reddish"}), "style.colours: em: 'reddish' is not a colour"),
        (Style(font_size=1), "style.font_size: 1 is not between"),
        (Style(dpi=1), "style.dpi: 1 is not between"),
        (Style(font_family="No Such Font"), "style.font_family: 'No Such Font' is not installed"),
        (Style(font_size=12, width=4), "style.width: 4 inches are too few for a font of 12 points"),
        (Style(height=1), "style.height: 1 inches are too few for a font of 8 points"),
    ],
)
def test_a_style_that_cannot_be_drawn_is_refused(published: Path, look: Style, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        draw_hero(Results.read(published), style=look)


def test_hero_of_nothing_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, Size(layers=(20,)), ("rates", "leakage", "geometry"))
    with pytest.raises(UserError, match="neither leakage nor geometry"):
        draw_hero(Results.read(folder))


def test_conditions_differ_without_colour(aggregate: Path) -> None:
    findings = Results.read(aggregate)
    faces = style.looks(findings)
    assert len({face.colour for face in faces.values()}) == len(findings.conditions)
    assert len({face.marker for face in faces.values()}) == len(findings.conditions)


def test_heat_map_text_is_readable_on_every_cell() -> None:
    for value in np.linspace(0, 1, 101):
        cell = style.HEAT(float(value))
        assert style.contrast(cell, to_rgb(style.readable_on(cell))) >= 4.5
    luminances = [style.contrast(style.HEAT(float(v)), (0, 0, 0)) for v in np.linspace(0, 1, 50)]
    assert luminances == sorted(luminances, reverse=True), "greyscale must keep the order"


def test_heat_map_marks_what_was_not_evaluated(tmp_path: Path) -> None:
    folder = write(tmp_path / "in")
    found = results(folder)
    found["rates"] = [
        r for r in found["rates"] if (r["condition"], r["persona"]) != ("base", "villain")
    ]
    (folder / "results.json").write_text(json.dumps(found))
    heat = planned(folder)["personas"]
    assert "hatched: not evaluated" in heat.caption
    assert len(heat.data) == 7 * 13 - 1
    assert heat.data.induction.sum() == 5


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=9),
    st.floats(0.001, 0.1),
)
def test_spread_labels_keep_apart_in_order_and_in_range(values: list[float], gap: float) -> None:
    placed = style.spread(values, gap, 0.0, 1.0)
    order = sorted(range(len(values)), key=lambda i: values[i])
    steps = np.diff([placed[i] for i in order])
    assert (steps >= gap - 1e-9).all()
    assert min(placed) >= -1e-9 and max(placed) <= 1 + 1e-9


def test_spread_leaves_free_labels_where_they_are() -> None:
    assert style.spread([0.1, 0.9, 0.5], 0.1, 0, 1) == pytest.approx([0.1, 0.9, 0.5])
    assert style.spread([0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.45, 0.55])


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        (("geometry",), ["hero", "personas", "training"]),
        (
            ("rates", "leakage"),
            [
                "hero",
                "m1-layers",
                "m1-increment",
                "m2-layers",
                "m2-convergence",
                "m3-layers",
                "persona-plane",
                "axis-positions",
                "cosine-matrices",
                "training",
            ],
        ),
        (("rates", "leakage", "geometry"), ["training"]),
        (("rates", "leakage", "geometry", "training"), []),
    ],
)
def test_partial_study_draws_what_it_can(
    tmp_path: Path, without: tuple[str, ...], expected: list[str]
) -> None:
    folder = write(tmp_path / "in", Size(layers=(20,)), without)
    assert list(planned(folder)) == expected
    if expected in ([], ["training"]):
        assert [figure.id for figure in draw(folder, tmp_path / "out", SVG)] == expected
        written = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert written == [f"{name}.svg" for name in expected]


def test_csv_holds_the_drawn_values(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        lines = figure.csv().splitlines()
        assert len(lines) == len(figure.data) + 1
        assert lines[0] == ",".join(figure.data.columns)
        assert not figure.data.empty and isinstance(figure.data, pd.DataFrame)


def test_labels_are_text_not_mathematics(tmp_path: Path) -> None:
    """A dollar sign or a brace in a user's label is drawn, not typeset."""
    folder = write(tmp_path / "in", Size(conditions=3, layers=(20,)))
    found = results(folder)
    found["conditions"][2]["label"] = r"$\undefined{ 5 $ <b>"
    found["marker"] = "$x_{"
    (folder / "results.json").write_text(json.dumps(found))
    hero = planned(folder, "$\\frac{")["hero"]
    drawn = [text.get_text() for text in drawn_texts(hero.paint(False))]
    assert r"$\undefined{ 5 $ <b>" in drawn and "answers with $x_{, %" in drawn
    assert re.search(re.escape(r"and $\undefined{ 5 $ <b> ") + r"\d", hero.alt)


def broken(found: dict[str, Any], *path: str | int, value: object) -> str:
    target: Any = found
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return json.dumps(found)


def test_bad_input_is_one_line_that_names_it(published: Path, tmp_path: Path) -> None:
    cases = {
        "results.json: not found": None,
        "results.json: not JSON (line 1": "{not json",
        "results.json: conditions: List should have at least 1 item": broken(
            results(published), "conditions", value=[]
        ),
        "results.json: rates.3.hits": broken(results(published), "rates", 3, "hits", value="x"),
        "results.json: conditions.1.kind": broken(
            results(published), "conditions", 1, "kind", value="evil"
        ),
        "results.json: top level": "[]",
    }
    for number, (words, content) in enumerate(cases.items()):
        folder, out = tmp_path / str(number), tmp_path / f"out-{number}"
        folder.mkdir()
        if content is not None:
            (folder / "results.json").write_text(content)
        with pytest.raises(UserError) as caught:
            draw(folder, out, SVG)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not out.exists()


def test_unknown_format_is_refused_before_anything_is_written(
    published: Path, tmp_path: Path
) -> None:
    settings = SimpleNamespace(title="", formats=["svg", "gif"], dpi=80)
    with pytest.raises(UserError, match=r"figures\.formats: gif"):
        draw(published, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_not_a_number_is_read_as_absent(published: Path, tmp_path: Path) -> None:
    found = results(published)
    for entry in found["geometry"]:
        if entry["metric"] == "M2":
            entry["value"] = entry["delta"] = float("nan")
    (tmp_path / "results.json").write_text(json.dumps(found))
    names = list(planned(tmp_path))
    assert "m2-layers" not in names and "m1-layers" in names
