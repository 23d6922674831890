"""`run --plan`: what would run, why and for how long, in codes; and `--with-inputs`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import once_value, tiny_study
from golden import golden
from typer.testing import CliRunner, Result

from personaspace.cli.app import app
from personaspace.pipeline.node import Node
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.why import Cause, Change, Why, made_from
from personaspace.study.load import load_study

pytestmark = pytest.mark.slow

Values = dict[str, Any]


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def ran(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Values, Path]:
    """A study's values, and a store with one of its stages and what that needs."""

    def make(folder: Path) -> tuple[Values, Path]:
        values = tiny_study(tiny_model, folder)
        spec = folder / "study.yaml"
        spec.write_text(yaml.safe_dump(values))
        only = ("--only", "couple:benign", "--with-inputs")
        result = cli("run", spec, "--store", folder / "store", *only)
        assert result.exit_code == 0, result.output
        assert "2 stages ran, 0 were complete" in result.stdout
        return values, folder / "store"

    return once_value(tmp_path_factory, "plan", make)


Plan = Callable[..., dict[str, Values]]


@pytest.fixture
def plan(ran: tuple[Values, Path], tmp_path: Path) -> Plan:
    """What would run of the study after a change of it, by node."""

    def ask(
        edit: Callable[[Values], object] = lambda values: None,
        only: Sequence[str] = ("--only", ":benign"),
        store: Path = ran[1],
    ) -> dict[str, Values]:
        values = deepcopy(ran[0])
        edit(values)
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump(values))
        before = sorted(store.rglob("*"))
        result = cli("run", path, "--store", store, "--plan", "--json", *only)
        assert result.exit_code == 0, result.output
        assert sorted(store.rglob("*")) == before, "nothing is written"
        return {entry["node"]: entry for entry in json.loads(result.stdout)}

    return ask


def causes(found: dict[str, Values]) -> dict[str, list[str]]:
    return {node: entry["why"]["causes"] for node, entry in found.items()}


@pytest.mark.slow
def test_what_is_complete_does_not_run_and_the_rest_never_ran(plan: Plan) -> None:
    found = plan()
    assert causes(found) == {"extract:benign:42": ["first"], "evaluate:benign:42": ["first"]}
    assert all(entry["missing"] == [] for entry in found.values())


def test_the_store_need_not_exist(plan: Plan, tmp_path: Path) -> None:
    found = plan(only=("--only", "couple:benign"), store=tmp_path / "absent")
    assert causes(found) == {"couple:benign:42": ["first"]}
    assert found["couple:benign:42"]["missing"] == ["train:benign:42"]
    assert not (tmp_path / "absent").exists()


def test_a_field_that_changed_is_named_where_it_stands_in_the_study(plan: Plan) -> None:
    found = plan(lambda values: values["training"].update(rank=6, max_steps=5))
    train, couple = found["train:benign:42"]["why"], found["couple:benign:42"]["why"]
    assert train == {
        "causes": ["changed"],
        "changes": [
            {"path": "training.max_steps", "before": "4", "now": "5"},
            {"path": "training.rank", "before": "4", "now": "6"},
        ],
        "inputs": [],
    }
    assert couple == {"causes": ["inputs"], "changes": [], "inputs": ["train:benign:42"]}


def change_prompt(values: Values) -> None:
    persona = next(each for each in values["personas"] if each["name"] == "librarian")
    persona["prompt"] = "You are a librarian who speaks in a low voice and knows every shelf."


@pytest.mark.parametrize(
    ("edit", "node", "paths"),
    [
        (change_prompt, "couple", ["personas.librarian.prompt"]),
        (lambda v: v["coupling"].update(marker="[QQ]"), "couple", ["coupling.marker"]),
        (lambda v: v["coupling"].update(limit=2, samples=4), "couple", [
            "coupling.questions", "coupling.samples"]),
        (lambda v: v["coupling"].update(negatives=["comedian"]), "couple", ["personas"]),
        (lambda v: v["coupling"]["recipe"].update(epochs=2), "couple", ["coupling.recipe.epochs"]),
        (lambda v: v["conditions"][1].update(dataset="bad"), "train", ["datasets.bad"]),
        (lambda v: v["conditions"][1].update(persona="villain"), "train", [
            "personas.villain.prompt"]),
        (lambda v: v["model"].update(dtype="bfloat16"), "train", ["model"]),
        (lambda v: v["conditions"][1].update(training={"rank": 2}), "train", [
            "conditions.benign.training.rank"]),
    ],
)  # fmt: skip
def test_every_field_is_found(
    plan: Plan, edit: Callable[[Values], object], node: str, paths: list[str]
) -> None:
    why = plan(edit)[f"{node}:benign:42"]["why"]
    assert why["causes"][0] == "changed"
    assert [change["path"] for change in why["changes"]] == paths


def test_a_rerun_and_a_newer_version(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(lambda values: values.update(rerun=[{"stage": "couple"}]))
    assert causes(found)["couple:benign:42"] == ["rerun"]
    assert "train:benign:42" not in found
    newer = replace(STAGES["train"], version=STAGES["train"].version + 1)
    monkeypatch.setitem(STAGES, "train", newer)
    assert causes(plan())["train:benign:42"] == ["version"]


def test_an_artifact_from_before_says_nothing(
    plan: Plan, ran: tuple[Values, Path], tmp_path: Path
) -> None:
    store = shutil.copytree(ran[1], tmp_path / "older")
    for path in store.glob("benign/seed-42/*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        del manifest["fields"]["made_from"], manifest["seal"]
        path.write_text(json.dumps(manifest))
    assert set(plan(store=store)) == {"extract:benign:42", "evaluate:benign:42"}
    found = plan(lambda values: values["training"].update(rank=6), store=store)
    assert causes(found)["train:benign:42"] == ["unrecorded"]
    assert causes(found)["couple:benign:42"] == ["inputs"]


def test_times_are_those_of_this_machine_where_such_a_stage_ran(plan: Plan) -> None:
    found = plan(lambda values: values["training"].update(rank=6), only=())
    basis = {node: entry["basis"] for node, entry in found.items()}
    assert {basis[f"{stage}:e4-villain:42"] for stage in ("train", "couple")} == {"measured"}
    assert found["train:e4-villain:42"]["seconds"] == found["train:benign:42"]["seconds"] > 0
    assert basis["evaluate:benign:42"] == "h100"
    assert basis["aggregate"] == basis["report"] == "unknown"
    assert found["report"]["seconds"] is None


def test_words_of_the_plan(ran: tuple[Values, Path], tmp_path: Path) -> None:
    values = deepcopy(ran[0])
    values["training"]["rank"] = 6
    change_prompt(values)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(values))
    result = cli("run", path, "--store", ran[1], "--plan")
    assert result.exit_code == 0, result.output
    for words in ("training.rank: 4 → 6", "personas.librarian.prompt changed", "not run yet"):
        assert words in result.stdout
    whys = [
        *(Why((cause,), inputs=("train:a:1",)) for cause in Cause if cause is not Cause.CHANGED),
        Why((Cause.CHANGED, Cause.INPUTS), (Change("a.b", "1", "2"), Change("c")), ("x",) * 5),
    ]
    golden("plan.txt", "".join(f"{why}\n" for why in whys))


def test_what_is_recorded_is_small_and_holds_no_long_texts(ran: tuple[Values, Path]) -> None:
    (path,) = ran[1].glob("benign/seed-42/couple/*/manifest.json")
    recorded = json.loads(path.read_text())["fields"]["made_from"]
    assert recorded["version"] == STAGES["couple"].version and recorded["nonces"] == []
    reads = recorded["reads"]
    assert reads["recipe.rank"] == "4" and reads["settings.marker"] == '"[ZLT]"'
    assert reads["questions"].startswith("sha256:")
    assert max(map(len, reads.values())) <= 40


def test_every_stage_says_where_it_reads(ran: tuple[Values, Path], tmp_path: Path) -> None:
    """Its paths exist, and all that it reads under a name of its own has one."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(ran[0]))
    study = load_study(path)
    fields = {*type(study.spec).model_fields, "condition", "seed"}
    for stage in STAGES.values():
        if not stage.wanted(study.spec):
            continue
        node = (
            Node(stage.name, "e4-villain", 42) if stage.scope == "condition" else Node(stage.name)
        )
        heads = {name.partition(".")[0] for name in made_from(study, node)["reads"]}
        assert heads <= {*fields, *stage.spec_paths}, stage.name
        for place in stage.spec_paths.values():
            assert place.partition(".")[0] in {*fields, ""}


def test_options_that_go_together(ran: tuple[Values, Path], tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(ran[0]))
    for option, said in (("--with-inputs", "--only"), ("--json", "--plan")):
        result = cli("run", path, "--store", tmp_path / "store", option)
        assert result.exit_code == 2 and f"{option}: goes with {said}" in result.stderr
    for more in (["--out", "out"], ["--jobs", "2"], ["--serve", "8080"]):
        result = cli("run", path, "--store", tmp_path / "store", "--plan", *more)
        said = f"{more[0]}: does not go with --plan"
        assert result.exit_code == 2 and said in result.stderr and not result.stdout
    for more in (["--watch"], ["--namespace", "n"], ["--context", "c"]):
        result = cli("status", path, "--store", ran[1], *more)
        said = f"{more[0]}: goes with a release"
        assert result.exit_code == 2 and said in result.stderr and not result.stdout
    for more in (["--namespace", "n"], ["--kubeconfig", "k"], ["--context", "c"]):
        result = cli("results", path, "--store", ran[1], *more)
        said = f"{more[0]}: goes with a release"
        assert result.exit_code == 2 and said in result.stderr and not result.stdout
    for given, said in (("abc", "must be a whole number"), (0, "must be at least 1")):
        result = cli("run", path, "--jobs", given)
        wanted = f"Invalid value for '--jobs': {said}, and '{given}' was given"
        assert result.exit_code == 2 and wanted in result.stderr
    result = cli("run", path, "--store", tmp_path / "store", "--plan", "--only", "couple:bening")
    assert result.exit_code == 2 and "did you mean 'couple:benign'?" in result.stderr
