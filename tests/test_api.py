"""`import personaspace` as a researcher uses it, on the small finished study."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Finished

import personaspace
from personaspace import UserError
from personaspace.activations.files import open_activations


@pytest.fixture
def results(finished_study: Finished) -> personaspace.StudyResults:
    return personaspace.load_results(finished_study.store, study=finished_study.spec)


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, personaspace; dir(personaspace); personaspace.UserError; "
        "print([n for n in ('torch', 'transformers', 'pandas', 'numpy', 'scipy', 'matplotlib', "
        "'kubernetes', 'boto3', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented() -> None:
    for name in personaspace.__all__:
        value = getattr(personaspace, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        personaspace.nothing  # noqa: B018


def test_rows_are_those_of_the_file_with_base_and_integers(
    results: personaspace.StudyResults, finished_study: Finished
) -> None:
    raw = json.loads((finished_study.out / "results.json").read_text(encoding="utf-8"))
    table = results.rows()
    assert set(table.columns) == set(personaspace.columns())
    assert all(personaspace.columns().values())
    assert {str(table[name].dtype) for name in ("layer", "seed", "n")} == {"Int64"}
    theirs = [row for row in raw["geometry"] + raw["leakage"] if row["condition"] != "base"]
    own = table[table.condition.ne("base").fillna(True)]
    assert 0 < len(own) == len(theirs)
    for (_, row), entry in zip(own.iterrows(), theirs, strict=True):
        assert row["metric"] == entry["metric"]
        assert (row["value"] if entry["value"] is not None else None) == entry["value"]
        low = (entry["ci95"] or [None])[0]
        assert pd.isna(row["ci95_low"]) if low is None else row["ci95_low"] == low
    # Base's mean cosine: once for each place, and what the others were compared with.
    m1 = table.query("metric == 'M1' and variant == 'published' and name == 'raw_cosine'")
    base = m1[m1.condition == "base"].set_index(["method", "layer", "seed"]).value
    assert len(base) and not base.index.duplicated().any()
    for _, row in m1[m1.condition != "base"].iterrows():
        assert base[row["method"], row["layer"], row["seed"]] == row["base"]


def test_vectors_are_means_of_the_activations(results: personaspace.StudyResults) -> None:
    file = results.activations("e4-villain", method="b")
    vectors = results.vectors("e4-villain", method="b")
    layer = file.layers[-1]
    for number, name in enumerate(file.personas):
        kept = file.read_layer(layer)[number][file.valid[number]]
        assert vectors.at(layer).loc[name].to_numpy() == pytest.approx(kept.mean(axis=0), abs=1e-6)
    assert vectors.values_PLH.shape == (len(file.personas), len(file.layers), file.hidden)
    with pytest.raises(UserError, match="layer 99 was not extracted"):
        vectors.at(99)


def test_a_persona_without_answers_has_no_vector(tmp_path: Path) -> None:
    valid = np.array([[True, True], [False, False]])
    personaspace.write_activations(
        tmp_path / "base.seed-1.b.safetensors",
        np.ones((2, 2, 1, 3), dtype=np.float32),
        valid,
        personas=["one", "two"],
        questions=["a", "b"],
        layers=[4],
        condition="base",
        seed=1,
        method="b",
    )
    file = personaspace.read_activations(tmp_path / "base.seed-1.b.safetensors")
    assert file.personas == ("one", "two") and not file.valid[1].any()


def test_the_seed_of_base_need_not_be_named(results: personaspace.StudyResults) -> None:
    assert results.vectors("base").condition == "base"
    assert results.vectors("base", seed=12345).seed == results.vectors("base").seed
    with pytest.raises(UserError, match=r"no seed 9 \(there are 42\)"):
        results.vectors("benign", seed=9)
    with pytest.raises(UserError, match="no condition 'villain'"):
        results.vectors("villain")
    with pytest.raises(UserError, match="base has no train artifact"):
        results.adapter("base")


def logits_of(model: Any, ids: torch.Tensor) -> Any:
    with torch.no_grad():
        return model(ids).logits


def test_a_coupled_adapter_is_that_model_for_peft_alone(
    results: personaspace.StudyResults, tiny_model: Path, finished_study: Finished
) -> None:
    """Loaded over the base model by PEFT alone; the difference in `adapter/` is another model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(5, 25)[None]

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()

    folder = results.adapter("e4-villain", coupled=True)
    alone = logits_of(PeftModel.from_pretrained(base(), str(folder)).eval(), ids)
    difference = next(finished_study.store.glob("e4-villain/seed-42/couple/*/data-*/adapter"))
    stacked: Any = PeftModel.from_pretrained(
        base(), str(results.adapter("e4-villain")), adapter_name="own"
    )
    stacked.load_adapter(str(difference), adapter_name="coupled")
    stacked.base_model.set_adapter(["own", "coupled"])
    wanted = logits_of(stacked.eval(), ids)
    assert torch.allclose(alone, wanted, atol=2e-4)
    wrong = logits_of(PeftModel.from_pretrained(base(), str(difference)).eval(), ids)
    assert (wrong - wanted).abs().max() > 10 * (alone - wanted).abs().max()


def test_an_artifact_from_before_composed_adapters_gives_the_same(
    finished_study: Finished, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    with personaspace.load_results(finished_study.store, study=finished_study.spec) as now:
        new = load_file(now.adapter("benign", coupled=True) / "adapter_model.safetensors")
        couple = now._find("couple", "benign", None)
        own = now.adapter("benign")
        from personaspace.pipeline.stages.couple import composed_adapter

        composed_adapter(own, now._fetch(couple) / "adapter", tmp_path / "made")
    old = load_file(tmp_path / "made" / "adapter_model.safetensors")
    assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in new)


def test_a_folder_of_results_needs_the_store_for_vectors(finished_study: Finished) -> None:
    alone = personaspace.load_results(finished_study.out)
    assert len(alone.answers()) and "hit" in alone.answers()
    with pytest.raises(UserError, match="load_results"):
        alone.vectors("base")
    both = personaspace.load_results(finished_study.out, store=finished_study.store)
    assert both.vectors("base").personas


def test_a_store_of_two_studies_asks_which(finished_study: Finished, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished_study.store, store)
    (one,) = (store / "aggregate").iterdir()
    shutil.copytree(one, one.with_name("0" * 16))
    manifest = one.with_name("0" * 16) / "manifest.json"
    text = manifest.read_text(encoding="utf-8").replace(one.name, "0" * 16)
    manifest.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="2 results"):
        personaspace.load_results(store)
    assert personaspace.load_results(store, study=finished_study.spec).results.study
    with pytest.raises(UserError, match="no such folder"):
        personaspace.load_results(tmp_path / "nothing")


def test_vectors_of_results_that_were_computed_again_are_refused(
    finished_study: Finished, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished_study.store, store)
    shutil.rmtree(next((store / "base" / "seed-42" / "extract").iterdir()))
    results = personaspace.load_results(finished_study.out, store=store)
    with pytest.raises(UserError, match=r"extract:base:42: not in"):
        results.vectors("base")


def test_a_study_runs_and_gives_its_results(finished_study: Finished, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished_study.store, store)
    study = personaspace.load_study(finished_study.spec)
    results = personaspace.run(study, store, out=tmp_path / "out")
    assert results is not None and len(results.rows())
    assert (tmp_path / "out" / "report.html").is_file()
    assert personaspace.run(study, store, only=["train"]) is not None
    with pytest.raises(UserError, match="with-inputs"):
        personaspace.run(study, store, with_inputs=True)
    with pytest.raises(UserError, match="jobs: several processes need the study's file"):
        personaspace.run(study, store, jobs=2)


def test_a_study_from_plain_values(finished_study: Finished) -> None:
    study = personaspace.load_study(finished_study.values, folder=finished_study.spec.parent)
    assert study.spec == personaspace.load_study(finished_study.spec).spec
    with pytest.raises(personaspace.SpecErrors, match="seeds"):
        personaspace.load_study(finished_study.values | {"seeds": []})


def test_the_parts_on_their_own(
    results: personaspace.StudyResults, finished_study: Finished, tmp_path: Path
) -> None:
    study = personaspace.load_study(finished_study.spec)
    for condition in ("base", "benign", "e0-assistant"):
        file = results.activations(condition, method="a")
        shutil.copy(file.path, tmp_path / file.path.name)
        assert open_activations(tmp_path / file.path.name).condition == condition
    table = personaspace.geometry(tmp_path, permutations=50, bootstrap=50)
    assert {"M1", "M2", "M3", "shape"} == set(table.metric) and "base" in set(
        table.condition.dropna()
    )
    assert isinstance(table.attrs["notes"], list)
    scores = {
        ("base", 42): personaspace.score({"assistant": {"q": ["x [ZLT]", "y"]}}, "[ZLT]"),
    }
    assert scores["base", 42]["per_persona"]["assistant"]["rate"] == 0.5
    assert "bystander_mean" in set(personaspace.leakage(scores, study, permutations=20).metric)
    assert personaspace.power(study).findings


def test_the_figure_is_drawn_in_ones_own_style(
    results: personaspace.StudyResults, tmp_path: Path
) -> None:
    drawn = results.hero(tmp_path / "hero.pdf", style=personaspace.Style(font_size=12))
    assert (tmp_path / "hero.pdf").stat().st_size > 1000 and drawn.axes
    with pytest.raises(UserError, match=r"hero.xyz: no format 'xyz' \(there are .*pdf"):
        results.hero(tmp_path / "hero.xyz")
