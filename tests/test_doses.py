"""training.doses: adapters kept on the way of a training, and measured as the condition is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Finished, once, tiny_study
from peft import PeftModel
from safetensors.torch import load, load_file
from statsmodels.stats.multitest import multipletests
from store_places import Place, folder_place, s3_place
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import personaspace
from personaspace import interrupt
from personaspace.activations.files import write_activations
from personaspace.analysis.geometry.steps import rows_at_step
from personaspace.analysis.results import Results
from personaspace.cli.app import app
from personaspace.errors import Interrupted, SpecErrors
from personaspace.models import lora, team
from personaspace.pipeline import graph
from personaspace.pipeline.cost import estimate, load_of
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board
from personaspace.pipeline.run import run_node
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.stages import train
from personaspace.pipeline.stages.train import kept_dose
from personaspace.pipeline.upkeep import Reachable
from personaspace.pipeline.work import Work, prepare
from personaspace.store import open_store
from personaspace.study.doses import at_the_end
from personaspace.study.load import resolve
from personaspace.study.loaded import Study
from personaspace.study.notices import NoticeCode, notices
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
    [told] = at_the_end(spec)
    assert told == (
        "training.doses[1]",
        "2 is the last step of benign: the dose there is the condition itself, which is measured "
        "once",
    )
    every = study_of(dosed(study_dict, study_dict["training"]["max_steps"]))
    [notice] = [n for n in notices(every) if n.code is NoticeCode.LAST_STEP]
    assert not every.spec.doses() and "the last step of every condition" in notice.text
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "two processes",
        pytest.param(
            "fused", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_doses_of_a_run_in_two_processes_and_of_a_fused_one(
    how: str, study_dict: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of one process on the reference, up to rounding."""
    study_dict["training"]["dropout"] = 0.0  # each process drops out by itself
    alone = work_of(study_dict, tmp_path / "alone")
    if how == "fused":
        study_dict["training"]["implementation"] = "fused"
    else:
        # Where there is no GPU the processes meet on the CPU all the same.
        monkeypatch.setattr(team, "gpus", lambda asked: [""] * 2 if asked == 2 else [])
        mine = next(c for c in study_dict["conditions"] if c["name"] == "benign")
        mine["gpus"] = 2
    other = work_of(study_dict, tmp_path / "other")
    found: dict[Node, list[dict[str, torch.Tensor]]] = {}
    for node in (WHOLE, *DOSES):
        for work in (alone, other):
            go(work, node)
            found.setdefault(node, []).append(load(weights(work, node)))
    first, third = (found[node][1] for node in DOSES)
    moved = sum(float((third[name] - first[name]).norm()) ** 2 for name in first)
    for wanted, mine_too in found.values():
        apart = sum(float((wanted[n] - v).norm()) ** 2 for n, v in mine_too.items())
        assert apart < 1e-4 * moved


@pytest.mark.slow
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
    assert kept_dose(key, 1) in Reachable([work]), "gc leaves it"
    go(work, WHOLE)
    again = work.store.find(kept_dose(key, 1))
    assert again is not None and again.created == first.created, "went on after it"
    for node in DOSES:
        go(work, node)
        assert weights(work, node) == named(whole, node.condition)
        assert work.complete(node)
    assert weights(work, WHOLE) == named(whole, "benign")
    assert work.store.list(f"{key}/doses") == [], "each is in its own place now"
    assert kept_dose(key, 1) not in Reachable([work]), "and gc needs none"


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


# --- what is said of them -------------------------------------------------------------------------


@pytest.mark.slow
def test_m1_of_a_dose_is_that_of_a_run_stopped_there_by_other_code(
    study_dict: Values, tmp_path: Path, whole: Path
) -> None:
    """Hidden states by transformers and PEFT alone, the jackknife over questions written out."""
    study_dict["extraction"] |= {"methods": ["a"], "layers": [2]}
    store = tmp_path / "store"
    shutil.copytree(whole, store)
    work = work_of(study_dict, store)
    files: list[Path] = []
    for name in ("base", "benign-at-3"):
        go(work, Node("extract", name, 42))
        files += store.glob(f"{name}/seed-42/extract/*/data-*/{name}.seed-42.a.safetensors")
    rows = rows_at_step(
        files, {"benign-at-3"}, base="base", axis=None, assistant="assistant",
        place=("a", 2), seed=42,
    )  # fmt: skip
    found = {row.name: row for row in rows if row.metric == "M1"}

    study = work.study
    tokenizer: Any = AutoTokenizer.from_pretrained(study.spec.model.name)
    model: Any = AutoModelForCausalLM.from_pretrained(study.spec.model.name, dtype=torch.float32)

    def states() -> np.ndarray:
        """`[P, Q, H]`."""
        asked = []
        for persona in study.spec.extracted_personas():
            for question in study.extraction_questions:
                chat = [
                    {"role": "system", "content": study.spec.persona(persona).prompt},
                    {"role": "user", "content": question},
                ]
                text = tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True
                )
                ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
                with torch.no_grad():
                    out = model(ids, output_hidden_states=True)
                asked.append(out.hidden_states[3][0, -1].numpy())
        shape = (len(study.spec.extracted_personas()), len(study.extraction_questions), -1)
        # Files hold 16 bits.
        return np.stack(asked).astype(np.float16).astype(np.float64).reshape(shape)

    def cosine(states_PQH: np.ndarray) -> float:
        unit = states_PQH.mean(axis=1)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        return float((unit @ unit.T)[np.triu_indices(len(unit), 1)].mean())

    def jackknife(before: np.ndarray, after: np.ndarray) -> float:
        count = before.shape[1]
        full = cosine(after) - cosine(before)
        rest = [
            cosine(np.delete(after, q, axis=1)) - cosine(np.delete(before, q, axis=1))
            for q in range(count)
        ]
        return float(count * full - (count - 1) * np.mean(rest))

    plain = states()
    [adapter] = store.glob("benign-at-3/seed-42/train/*/data-*/adapter")
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    assert found["raw_cosine_delta"].value == pytest.approx(jackknife(plain, states()), abs=2e-6)
    assert abs(found["raw_cosine_delta"].value or 0) > 1e-4


def test_a_dose_that_is_base_yet_has_no_direction(tmp_path: Path) -> None:
    """The first step of a warm-up may have a rate of zero."""
    random = np.random.default_rng(1)
    base, moved = random.normal(size=(2, 3, 8, 1, 6)).astype(np.float16)
    for name, states in (("base", base), ("e0", base + moved), ("e0-at-1", base),
                         ("e0-at-2", base + moved / 2)):  # fmt: skip
        write_activations(
            tmp_path / f"{name}.seed-1.a.safetensors", states.astype(np.float16),
            np.ones((3, 8), bool), personas=["assistant", "b", "c"],
            questions=[f"q{n}" for n in range(8)], layers=[4], condition=name, seed=1, method="a",
        )  # fmt: skip
    names = {"e0-at-1", "e0-at-2"}
    rows = rows_at_step(
        list(tmp_path.glob("*.safetensors")), names, base="base", axis="e0",
        assistant="assistant", place=("a", 4), seed=1,
    )  # fmt: skip
    assert {r.condition for r in rows} == names, "the axis' own training is no dose"
    assert {r.condition for r in rows if r.metric == "M2"} == {"e0-at-2"}
    [still] = [r for r in rows if (r.condition, r.name) == ("e0-at-1", "raw_cosine_delta")]
    assert still.value == 0


@pytest.mark.long
def test_a_dose_added_to_a_finished_study_trains_its_first_steps_alone(
    finished_study: Finished, tmp_path: Path
) -> None:
    store, spec, out = tmp_path / "store", tmp_path / "study.yaml", tmp_path / "out"
    shutil.copytree(finished_study.store, store)
    spec.write_text(yaml.safe_dump(dosed(finished_study.values, 3)), encoding="utf-8")
    runner = CliRunner(env={"COLUMNS": "300"})
    plan = runner.invoke(app, ["run", str(spec), "--store", str(store), "--plan", "--json"])
    would = {each["node"]: each["why"] for each in json.loads(plan.stdout)}
    new = {f"{s}:{name}-at-3:42" for s in ("train", "extract") for name in TRAINED}
    assert set(would) == new | {"aggregate", "report"}
    assert would["train:benign-at-3:42"]["causes"] == ["not-kept"]
    assert would["extract:benign-at-3:42"]["causes"] == ["first"]
    told = runner.invoke(app, ["run", str(spec), "--store", str(store), "--plan"]).stdout
    assert "kept no adapter there: its first steps are trained once more" in told
    ran = runner.invoke(app, ["run", str(spec), "--store", str(store), "--out", str(out)])
    assert ran.exit_code == 0 and f"{len(would)} stages ran" in ran.stdout, ran.stdout
    [log] = store.glob("benign-at-3/seed-42/train/*/data-*/training.json")
    assert len(json.loads(log.read_text())["steps"]) == 3

    results = Results.read(out)
    before = Results.read(finished_study.out)
    assert results.rows == before.rows, "no test of the study knows of doses"
    assert results.training == before.training and results.conditions == before.conditions
    rows = {(r.metric, r.condition, r.step): r for r in results.trajectories}
    assert set(rows) >= {("M1", name, step) for name in TRAINED for step in (3, 4)}
    for name in TRAINED:
        [own] = [r for r in results.geometry
                 if (r.metric, r.variant, r.name) == ("M1", "recommended", "raw_cosine_delta")
                 and (r.condition, r.target) == (name, "these_personas")
                 and (r.method, r.layer) == ("a", 3)]  # fmt: skip
        last = rows["M1", name, 4]
        assert (last.value, last.ci95, last.whole, last.p) == (own.value, own.ci95, True, None)
    tested = [r for r in results.trajectories if r.p is not None]
    holm = multipletests([r.p for r in tested], method="holm")[1]
    assert [r.p_holm for r in tested] == pytest.approx(holm.tolist()) and len(tested) >= 6
    table = personaspace.load_results(out).trajectories()
    assert len(table) == len(results.trajectories) and table.ci95_low.notna().any()
    assert 'id="trajectories"' in (out / "report.html").read_text(encoding="utf-8")
    assert "over the steps of training" in (out / "report.md").read_text(encoding="utf-8")
    assert (out / "figures" / "trajectories.svg").is_file()
