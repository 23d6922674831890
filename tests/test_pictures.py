"""Pictures of persona space: coordinates by a textbook, one order, one's own style, metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from synthetic_aggregate import Size, write

from personaspace.analysis.geometry.cells import Cell, Roles
from personaspace.analysis.geometry.space import space_of
from personaspace.analysis.results import Results
from personaspace.api.results import StudyResults
from personaspace.errors import UserError
from personaspace.report.figures import PICTURES, Style, draw_picture
from personaspace.report.figures import pairs as of_pairs
from personaspace.version import __version__

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = Size(conditions=4, personas=5, layers=(20,), methods=("a",), questions=2, samples=2)
    return write(tmp_path_factory.mktemp("aggregate"), size)


def test_coordinates_are_those_of_base_alone_and_the_axis_goes_from_0_to_1() -> None:
    means = np.random.default_rng(0).normal(size=(3, 5, 8))
    names = ("assistant", "b", "c", "d", "e")
    valid = np.ones((5, 1), dtype=bool)
    states = means[:, :, None].astype(np.float32)
    cell = Cell("a", 0, 1, ("base", "e0", "e1"), names, states, valid, means)
    space = space_of(cell, Roles("base", "e0", None, "assistant"))
    fitted = PCA(2).fit(means[0])
    variances = PCA().fit(means[0]).explained_variance_ratio_
    assert space.shares == pytest.approx(list(variances[:2]))
    for index, condition in enumerate(("base", "e0", "e1")):
        mine = [place for place in space.places if place.condition == condition]
        want = fitted.transform(means[index])
        found = np.array([[place.first, place.second] for place in mine])
        for axis in range(2):  # signs are arbitrary
            sign = np.sign(found[0, axis] * want[0, axis])
            assert found[:, axis] == pytest.approx(sign * want[:, axis])
    at = {(place.condition, place.persona): place.along for place in space.places}
    assert at["base", "assistant"] == pytest.approx(0)
    assert at["e0", "assistant"] == pytest.approx(1)
    axis_H = means[1, 0] - means[0, 0]
    along = np.linalg.lstsq(axis_H[:, None], means[2, 3] - means[0, 0], rcond=None)[0][0]
    assert at["e1", "d"] == pytest.approx(along)


def test_one_order_puts_alike_personas_next_to_each_other(folder: Path) -> None:
    names = ["a", "b", "c", "d"]
    cosines = {("a", "c"): 0.99, ("b", "d"): 0.98}
    data = pd.DataFrame(
        [
            {"condition": "base", "persona_i": i, "persona_j": j,
             "cosine": cosines.get((i, j), 0.5)}
            for i in names for j in names if i < j
        ]
    )  # fmt: skip
    order = of_pairs._order(data, "base")
    assert abs(order.index("a") - order.index("c")) == abs(order.index("b") - order.index("d")) == 1


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_in_ones_own_style_say_what_drew_them(
    folder: Path, tmp_path: Path, name: str
) -> None:
    results = StudyResults(folder)
    look = Style(font_size=9, colours={"benign": "#123456"})
    results.figure(name, tmp_path / "x.png", style=look)
    with Image.open(tmp_path / "x.png") as image:
        assert image.info["Source"] == "sha256:" + "ab" * 32
        assert image.info["Software"] == f"personaspace {__version__}"
    results.figure(name, tmp_path / "x.svg")
    svg = (tmp_path / "x.svg").read_text()
    assert "sha256:" + "ab" * 32 in svg and f"personaspace {__version__}" in svg
    with pytest.raises(UserError, match="not a condition"):
        draw_picture(name, folder, results.results, Style(colours={"nobody": "red"}))


def test_what_cannot_be_drawn_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no figure 'heros'"):
        StudyResults(folder).figure("heros")
    with pytest.raises(UserError, match=r"nowhere.x\.png: cannot be written"):
        StudyResults(folder).figure("cosine-matrices", tmp_path / "nowhere" / "x.png")
    results = Results.read(folder).model_copy(update={"spaces": [], "source": None})
    for name in ("persona-plane", "axis-positions", "leakage-geometry"):
        with pytest.raises(UserError, match="nothing to draw"):
            draw_picture(name, folder, results)
    with pytest.raises(UserError, match="nothing to draw"):
        draw_picture("cosine-matrices", tmp_path, results)
