"""training.doses: adapters kept on the way of a training, and measured as the condition is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Finished, once, tiny_study
from safetensors.torch import load_file
from store_places import Place, folder_place, s3_place
from typer.testing import CliRunner

from personaspace import interrupt
from personaspace.cli.app import app
from personaspace.errors import Interrupted, SpecErrors
from personaspace.models import lora
from personaspace.pipeline import graph
from personaspace.pipeline.cost import estimate, load_of
from personaspace.pipeline.progress import Board
from personaspace.pipeline.run import Work, prepare, run_node
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.stage import Node
from personaspace.pipeline.stages import train
from personaspace.pipeline.stages.train import kept_dose
from personaspace.pipeline.upkeep import reachable
from personaspace.store import open_store
from personaspace.study.load import Study, resolve
from personaspace.study.spec import Experiment
from personaspace.study.validate import examine
from personaspace.training import checkpoints

Values = dict[str, Any]
TRAINED = ["benign", "e0-assistant", "e4-villain"]
WEIGHTS = "adapter/adapter_model.safetensors"


def dosed(values: Values, *doses: int, **fields: Any) -> Values:
    return {**values, "training": {**values["training"], "doses": list(doses), **fields}}


def study_of(values: Values) -> Study:
    return resolve(Experiment.model_validate(values), Path("/nowhere"))


def prints(values: Values) -> tuple[graph.Graph, dict[str, str]]:
    study = study_of(values)
    built = graph.build(study)
    return built, {node.id: text for node, text in graph.fingerprints(study, built).items()}


# --- what runs ------------------------------------------------------------------------------------


def test_doses_add_nodes_and_change_no_other(study_dict: Values) -> None:
    before = prints(study_dict)[1]
    plan, after = prints(dosed(study_dict, 1, 3))
    new = {f"{stage}:{name}-at-{k}:42" for stage in ("train", "extract") for name in TRAINED
           for k in (1, 3)}  # fmt: skip
    assert set(after) - set(before) == new
    assert {name for name in before if before[name] != after[name]} == {"aggregate", "report"}
    needs = {node.id: [need.id for need in plan.needs[node]] for node in plan.nodes}
    assert needs["train:benign-at-3:42"] == ["train:benign:42"]
    assert needs["extract:benign-at-3:42"] == ["train:benign-at-3:42"]
    assert new < set(needs["aggregate"])
    for number, node in enumerate(plan.nodes):
        assert set(plan.needs[node]) <= set(plan.nodes[:number])
    more = prints(dosed(study_dict, 1, 2, 3))[1]
    assert {name for name in after if after[name] != more[name]} == {"aggregate", "report"}
    assert len({more[f"train:benign{at}:42"] for at in ("", "-at-1", "-at-2", "-at-3")}) == 4


def test_coupling_and_evaluation_where_asked(study_dict: Values) -> None:
    plan, _ = prints(dosed(study_dict, 2, doses_in=["evaluate"]))
    mine = [node.id for node in plan.nodes if node.condition == "e4-villain-at-2"]
    assert mine == [f"{stage}:e4-villain-at-2:42" for stage in ("train", "couple", "evaluate")]
    first = {**study_dict, "coupling": {**study_dict["coupling"], "order": "before"}}
    plan, _ = prints(dosed(first, 2))
    needs = {node.id: [need.id for need in plan.needs[node]] for node in plan.nodes}
    both = ["couple:base:42", "train:e4-villain:42"]
    assert needs["train:e4-villain-at-2:42"] == both
    assert needs["extract:e4-villain-at-2:42"] == ["train:e4-villain-at-2:42", "couple:base:42"]
    assert "couple:e4-villain-at-2:42" not in needs


def test_a_condition_whose_last_step_it_is_has_no_dose_there(study_dict: Values) -> None:
    own = [dict(c, training={"max_steps": 2}) if c["name"] == "benign" else c
           for c in study_dict["conditions"]]  # fmt: skip
    spec = Experiment.model_validate(dosed({**study_dict, "conditions": own}, 1, 2))
    assert [d.name for d in spec.doses() if d.of == "benign"] == ["benign-at-1"]
    assert [d.step for d in spec.doses() if d.of == "e4-villain"] == [1, 2]
    dose = spec.condition("e4-villain-at-2")
    assert (dose.whole, dose.persona, dose.title) == ("e4-villain", "villain", "e4-villain, step 2")


def test_a_rerun_may_name_a_dose(study_dict: Values) -> None:
    before = prints(dosed(study_dict, 1, 3))[1]
    rerun = [{"stage": "extract", "condition": "benign-at-3"}]
    after = prints({**dosed(study_dict, 1, 3), "rerun": rerun})[1]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"extract:benign-at-3:42", "aggregate", "report"}


def test_what_is_kept_on_the_way_costs_no_training(study_dict: Values) -> None:
    plain, more = (estimate(study_of(v)) for v in (study_dict, dosed(study_dict, 1, 3)))
    assert more.steps == plain.steps and more.prompts == plain.prompts + 2 * 3 * 20
    assert more.bytes is not None and plain.bytes is not None and more.bytes > plain.bytes
    again = load_of(study_of(dosed(study_dict, 3)), Node("train", "benign-at-3", 42), kept=False)
    assert again is not None and again.steps == 3


def test_doses_beyond_what_the_data_sets_allow_are_refused(study_dict: Values) -> None:
    """14 chats in fours: four steps, where no one says how many."""
    study_dict["training"]["max_steps"] = None
    said = {
        4: "training.doses[1]: 4 is the last step of benign, which is measured anyway: leave it",
        5: "training.doses[1]: 5 is beyond the 4 steps of benign",
    }
    for step, words in said.items():
        with pytest.raises(SpecErrors) as failure:
            study_of(dosed(study_dict, 1, step))
        assert words in str(failure.value) and "\n" not in str(failure.value)
    own = [dict(c, training={"epochs": 2}) for c in study_dict["conditions"] if c.get("dataset")]
    assert study_of(dosed({**study_dict, "conditions": [{"name": "base"}, *own]}, 1, 5))
    named = [*study_dict["conditions"], {"name": "benign-at-2", "dataset": "good"}]
    [problem] = examine(dosed({**study_dict, "conditions": named}, 2))[1]
    assert problem.path == "training.doses[0]" and "is the name of a condition" in str(problem)


# --- what training keeps --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with benign's training, and its doses at 1 and 3 of 4 steps, undisturbed."""

    def make(folder: Path) -> None:
        work = work_of(tiny_study(tiny_model, folder), folder / "store")
        for name in ("benign", "benign-at-1", "benign-at-3"):
            go(work, Node("train", name, 42))

    return once(tmp_path_factory, "doses", make) / "store"


def work_of(values: Values, place: object, *doses: int) -> Work:
    return prepare(study_of(dosed(values, *(doses or (1, 3)))), open_store(str(place)))


def go(work: Work, node: Node) -> None:
    board = Board([node])
    run_node(work, node, Runtime(work.study), lambda: board.stage(node))


def weights(work: Work, node: Node) -> bytes:
    manifest = work.manifest(node)
    assert manifest is not None
    return (work.store.fetch(manifest) / WEIGHTS).read_bytes()


def named(store: Path, condition: str) -> bytes:
    [path] = store.glob(f"{condition}/seed-42/train/*/data-*/{WEIGHTS}")
    return path.read_bytes()


DOSES = [Node("train", f"benign-at-{step}", 42) for step in (1, 3)]
WHOLE = Node("train", "benign", 42)


def test_a_dose_is_what_a_run_stopped_there_has_in_its_checkpoint(
    study_dict: Values, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after three steps by a study without doses; then doses are asked for."""
    work = prepare(study_of(study_dict), open_store(str(tmp_path / "store")))
    steps = iter([False, False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "asked", lambda: next(steps, True))
        with pytest.raises(Interrupted):
            go(work, WHOLE)
    [folder] = (tmp_path / "store").glob("benign/seed-42/train/*/checkpoints/step-00000003/data-*")
    stopped = checkpoints.parameters(folder)
    kept = load_file(next(whole.glob(f"benign-at-3/seed-42/train/*/data-*/{WEIGHTS}")))
    assert len(stopped) == len(kept) > 10
    for name, value in stopped.items():
        assert torch.equal(value, kept[name.replace(f".{lora.TRAINED}.", ".")])
    # Going on from there the run meets no dose again: they are trained once more, to the same bits.
    later = work_of(study_dict, tmp_path / "store")
    go(later, WHOLE)
    for node in DOSES:
        go(later, node)
        assert weights(later, node) == named(whole, node.condition)
    assert weights(later, WHOLE) == named(whole, "benign")


@pytest.mark.parametrize("place", ["folder", pytest.param("s3", marks=pytest.mark.s3)])
def test_a_run_killed_between_doses_keeps_those_it_had(
    place: str, study_dict: Values, tmp_path: Path, whole: Path,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if place == "s3":
        server = request.getfixturevalue("s3_server")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        where: Place = s3_place(server)
    else:
        where = folder_place(tmp_path / "store")
    study_dict["training"]["checkpoint_every"] = 50  # doses alone are checkpoints
    work = work_of(study_dict, where.url)
    key = work.key(WHOLE)

    class Killed(BaseException):
        pass

    def at_the_third(self: Any, step: int, write: Callable[[Path], None]) -> None:
        if step == 3:
            raise Killed
        real(self, step, write)

    real = train.Checkpointing.save
    with monkeypatch.context() as patch:
        patch.setattr(train.Checkpointing, "save", at_the_third)
        with pytest.raises(Killed):
            go(work, WHOLE)
    first = work.store.find(kept_dose(key, 1))
    assert first is not None and work.store.find(kept_dose(key, 3)) is None
    assert kept_dose(key, 1) in reachable([work])[0], "gc leaves it"
    go(work, WHOLE)
    again = work.store.find(kept_dose(key, 1))
    assert again is not None and again.created == first.created, "went on after it"
    for node in DOSES:
        go(work, node)
        assert weights(work, node) == named(whole, node.condition)
        assert work.complete(node)
    assert weights(work, WHOLE) == named(whole, "benign")
    assert work.store.list(f"{key}/doses") == [], "each is in its own place now"


def test_a_dose_knows_its_log_and_what_computed_it(study_dict: Values, whole: Path) -> None:
    [path] = whole.glob("benign-at-3/seed-42/train/*/data-*/training.json")
    [full] = whole.glob("benign/seed-42/train/*/data-*/training.json")
    log, other = json.loads(path.read_text()), json.loads(full.read_text())
    assert log["steps"] == other["steps"][:3] and log["examples"] == other["examples"]
    assert log["scope"] == [42, "train", "benign-at-3"]
    [manifest] = whole.glob("benign-at-3/seed-42/train/*/manifest.json")
    fields = json.loads(manifest.read_text())
    text = json.dumps(fields)
    assert '"implementation": "reference"' in text and '"prompts"' in text


# --- a dose more, for a study that is finished ----------------------------------------------------


@pytest.mark.long
def test_a_dose_added_to_a_finished_study_trains_its_first_steps_alone(
    finished_study: Finished, tmp_path: Path
) -> None:
    store, spec = tmp_path / "store", tmp_path / "study.yaml"
    shutil.copytree(finished_study.store, store)
    spec.write_text(yaml.safe_dump(dosed(finished_study.values, 2)), encoding="utf-8")
    runner = CliRunner(env={"COLUMNS": "300"})
    plan = runner.invoke(app, ["run", str(spec), "--store", str(store), "--plan", "--json"])
    would = {each["node"]: each["why"] for each in json.loads(plan.stdout)}
    new = {f"{s}:{name}-at-2:42" for s in ("train", "extract") for name in TRAINED}
    assert set(would) == new | {"aggregate", "report"}
    assert would["train:benign-at-2:42"]["causes"] == ["not-kept"]
    assert would["extract:benign-at-2:42"]["causes"] == ["first"]
    told = runner.invoke(app, ["run", str(spec), "--store", str(store), "--plan"]).stdout
    assert "kept no adapter there: its first steps are trained once more" in told
    only = ["--only", "train:benign-at-2", "--only", "extract:benign-at-2"]
    ran = runner.invoke(app, ["run", str(spec), "--store", str(store), *only])
    assert ran.exit_code == 0 and "2 stages ran" in ran.stdout, ran.stdout
    [log] = store.glob("benign-at-2/seed-42/train/*/data-*/training.json")
    assert len(json.loads(log.read_text())["steps"]) == 2
