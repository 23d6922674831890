"""The registry of stages, and every place that names stages without being able to read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from personaspace.cluster.conductor import plan as plans
from personaspace.cluster.pod_settings import Stages
from personaspace.pipeline.context import TRAINS
from personaspace.pipeline.graph import build
from personaspace.pipeline.stage import Scope
from personaspace.pipeline.stages import STAGES
from personaspace.publish import contents as published
from personaspace.study.concluding import Rerun
from personaspace.study.cross_checks import OF_STUDY
from personaspace.study.load import load_study, resolve
from personaspace.study.publishing import Kind
from personaspace.study.spec import Experiment

BUILT_IN = "builtin:smollm2-135m-instruct"
FOLDER = Path(__file__).parents[1] / "personaspace" / "pipeline" / "stages"


def test_every_stage_is_the_one_of_its_file_and_comes_after_what_it_needs() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert set(STAGES) == files
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert name == stage.name
        assert sys.modules[stage.run.__module__].__name__.endswith(f".stages.{name}")
        assert {need.stage for need in stage.needs_of(Experiment())} <= seen, name
        if stage.scope is Scope.CONDITION:
            assert all(STAGES[need.stage].scope is Scope.CONDITION for need in stage.needs)
        seen.add(name)


def test_whoever_draws_answers_says_how_long_they_are() -> None:
    study = resolve(Experiment(), Path("/nowhere"))
    assert [name for name in STAGES if STAGES[name].draws_answers(study)] == [
        "extract",
        "couple",
        "evaluate",
    ]
    asked = resolve(
        Experiment.model_validate({"judge": {"model": BUILT_IN}, "log_odds": {}}), Path("/nowhere")
    )
    drawing = ["extract", "couple", "evaluate", "judge", "logodds"]
    assert [name for name in STAGES if STAGES[name].draws_answers(asked)] == drawing
    longest = {n: s.longest_answer(asked.spec) for n, s in STAGES.items() if s.longest_answer}
    assert list(longest) == drawing
    assert all(tokens > 0 for tokens in longest.values())
    alone = resolve(Experiment.model_validate({"extraction": {"methods": ["a"]}}), Path("/nowhere"))
    assert not STAGES["extract"].draws_answers(alone)


def test_the_registry_imports_nothing_that_computes() -> None:
    code = (
        "import json, sys; import personaspace.pipeline.graph;"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "numpy", "pandas", "scipy", "matplotlib", "jinja2", "peft"}
    assert heavy.isdisjoint(json.loads(done.stdout))


def test_inputs_are_fetched_as_far_as_they_are_read() -> None:
    assert STAGES["aggregate"].input_files("train") == ("training.json",)
    assert STAGES["aggregate"].input_files("evaluate") is None
    assert STAGES["evaluate"].input_files("couple") is None
    with pytest.raises(KeyError):
        STAGES["evaluate"].input_files("extract")


def test_the_spec_lets_every_stage_be_computed_again() -> None:
    """The study's room knows no pipeline, so the names stand there a second time."""
    # A report follows from its aggregate: there is nothing in it to compute again.
    assert get_args(Rerun.model_fields["stage"].annotation) == tuple(
        name for name in STAGES if name != "report"
    )


def test_the_charts_values_have_settings_for_every_job() -> None:
    jobs = {name for name, stage in STAGES.items() if stage.scope is Scope.CONDITION}
    # Aggregate's Job runs the report as well; a fused condition and the conductor are no stages.
    assert set(Stages.model_fields) == jobs | {"aggregate", "publish", "condition", "conductor"}


def test_what_is_published_comes_from_stages_that_there_are() -> None:
    """The room that publishes knows no pipeline, so the names stand there a second time."""
    named = {name for stages in published.STAGES.values() for name in stages}
    # What publishes has nothing to publish; all else that is stored is somebody's to read.
    assert named == {name for name, stage in STAGES.items() if not stage.outward}
    assert published.STAGES[Kind.ADAPTERS] == TRAINS
    of_study = [name for name, stage in STAGES.items() if stage.scope is Scope.STUDY]
    assert set(OF_STUDY) == {name for name in of_study if name in get_args(
        Rerun.model_fields["stage"].annotation
    )}  # fmt: skip


@pytest.mark.parametrize("partial", [False, True])
def test_the_conductor_tolerates_the_losses_that_stages_tolerate(
    partial: bool, study_dict: dict[str, Any], write_spec: Any
) -> None:
    study_dict["analysis"] = {**study_dict.get("analysis", {}), "partial": partial}
    path = write_spec(study_dict)
    study = load_study(path)
    table = {node.id: [node.id] for node in build(study).nodes}
    plan = plans.make(path, table)
    for node in build(study).nodes:
        tolerant = STAGES[node.stage].tolerates_loss(study)
        assert plan.is_tolerant(node.id) == tolerant, node.id
        assert tolerant == (partial and node.stage == "aggregate")
