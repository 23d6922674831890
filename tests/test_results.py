"""The one definition of `results.json`: what is written, and what is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from personaspace.analysis.results import RESULTS_FILE, Results
from personaspace.analysis.rows import Row
from personaspace.errors import UserError

STUDY = Path(__file__).parent.parent / "docs" / "study"


def least(**parts: Any) -> dict[str, Any]:
    return {"format": 1, "study": "s", "conditions": [{"name": "base", "kind": "base"}], **parts}


#: What came after studies had been published: at its default where a file lacks it.
LATER = {
    "control",
    "digest",
    "dimensions",
    "forms",
    "judge",
    "judged",
    "notices",
    "primary",
    "questions",
    "registration",
    "robustness",
    "seeds",
    "steering",
    "trajectories",
    "spaces",
}


def filled(value: Any, model: Any) -> Any:
    """What a file says with the nulls that it left out, as `publish_study` does."""
    if isinstance(value, dict) and isinstance(model, dict):
        return {
            key: part if key in LATER - set(value) else filled(value.get(key), part)
            for key, part in model.items()
        }
    if isinstance(value, list) and isinstance(model, list):
        return [filled(one, part) for one, part in zip(value, model, strict=True)]
    return value


def test_a_published_study_comes_back_as_it_was() -> None:
    """Values, order of fields, and integers as integers."""
    written = json.loads((STUDY / RESULTS_FILE).read_text(encoding="utf-8"))
    again = Results.read(STUDY).to_dict()
    assert again["format"] == 1 and written["format"] == 1
    assert [p for p in again if p in written or p not in LATER] == list(written)
    assert json.dumps(again) == json.dumps(filled(written, again))
    for part in ("leakage", "rates", "training", "conditions", "measures", "analysis"):
        assert json.dumps(again[part]) == json.dumps(filled(written[part], again[part])), part


def test_numbers_of_numpy_are_plain_and_missing_ones_null(tmp_path: Path) -> None:
    rows = [
        Row(
            "M1",
            "recommended",
            value=np.float64(0.5),
            n=np.array([3])[0],
            ci95=(np.float64(0.1), 1.0),
        ),
        Row("M2", "recommended", value=20, p=math.nan, ci95=(0.0, math.inf)),
    ]
    dumped = Results(**least(geometry=rows)).to_dict()["geometry"]
    assert [(row["value"], row["n"], row["p"], row["ci95"]) for row in dumped] == [
        (0.5, 3, None, [0.1, 1.0]),
        (20, None, None, None),
    ]
    assert type(dumped[1]["value"]) is int, "a layer stays an integer"
    # Files by other programs may hold NaN.
    path = tmp_path / RESULTS_FILE
    half = {"metric": "M1", "variant": "published", "value": math.nan, "ci95": [0.1, None]}
    path.write_text(json.dumps(least(geometry=[half])))
    (row,) = Results.read(tmp_path).geometry
    assert row.value is None and row.ci95 is None


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"geometry": [{"metric": "M1", "variant": "other"}]}, "geometry.0.variant: "),
        ({"geometry": [{"metric": "M1", "variant": "published", "valeu": 1}]}, "geometry.0.valeu"),
        ({"geometry": [{"metric": "M1", "variant": "published", "value": "x"}]},
         "geometry.0.value: Input should be a valid number"),
        ({"rates": [{"condition": "e0"}]}, "rates.0.persona: Field required"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"conditions": []}, "conditions: List should have at least 1 item"),
        ({"format": 2, "conditions": []}, "format: 2 is not a format that this version of"),
        ({"format": "1"}, "format: '1' is not a format"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named_in_one_line(
    parts: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / RESULTS_FILE).write_text(json.dumps(least(**parts)))
    for path in (tmp_path, tmp_path / RESULTS_FILE):
        with pytest.raises(UserError) as caught:
            Results.read(path)
        assert str(caught.value).startswith(f"{tmp_path / RESULTS_FILE}: {said}")
        assert "\n" not in str(caught.value)


def test_a_file_without_a_format_is_read_as_the_first_or_said_to_be_older(tmp_path: Path) -> None:
    path = tmp_path / RESULTS_FILE
    content = least()
    del content["format"]
    path.write_text(json.dumps(content))
    assert Results.read(path).format == 1
    path.write_text(json.dumps({**content, "arms": []}))
    with pytest.raises(UserError) as caught:
        Results.read(path)
    assert str(caught.value).startswith(f"{path} (without `format`: an older file): arms: Extra")


@pytest.mark.slow
def test_what_is_written_fits_the_published_schema() -> None:
    schema = json.loads((STUDY.parent / "results.schema.json").read_text(encoding="utf-8"))
    whole = Results.read(STUDY).to_dict()
    jsonschema.validate(whole, schema)
    del whole["geometry"][0]["warning"]
    with pytest.raises(jsonschema.ValidationError, match="'warning' is a required property"):
        jsonschema.validate(whole, schema)


def test_rates_are_pooled_over_seeds() -> None:
    counts = {"condition": "base", "persona": "p", "total": 10}
    found = Results(**least(rates=[{**counts, "seed": seed, "hits": seed} for seed in (1, 2)]))
    assert found.rate("base", "p") == pytest.approx(3 / 20)
    assert found.rate("base", "q") is None and len(found.rates_of("base")) == 2
    assert found.headline_layer is None and found.label("other") == "other"
