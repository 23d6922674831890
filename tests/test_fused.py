"""A whole condition in one process leaves the same artifacts as its stages apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personaspace.errors import Interrupted
from personaspace.models.load import load_model
from personaspace.pipeline import executor
from personaspace.pipeline.context import sampled_answers
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import make_board
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.stages import couple
from personaspace.pipeline.stages.train import fit
from personaspace.pipeline.work import Work, prepare
from personaspace.store import open_store
from personaspace.study.load import load_study

pytestmark = pytest.mark.slow

STAGES = ("train", "extract", "couple", "evaluate")


def nodes_of(work: Work, condition: str) -> list[Node]:
    return [node for node in work.graph.nodes if node.condition == condition]


def run(work: Work, nodes: list[Node]) -> None:
    with make_board(nodes) as board:
        summary = executor.run_here(work, nodes, board)
    assert not summary.failed and len(summary.done) == len(nodes)


def test_one_process_and_four_leave_the_same(
    study_dict: dict[str, Any],
    write_spec: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[str] = []
    real = load_model

    def counted(model: Any) -> Any:
        loads.append(model.name)
        return real(model)

    monkeypatch.setattr("personaspace.pipeline.runtime.load_model", counted)
    loaded = load_study(write_spec(study_dict))
    with open_store(str(tmp_path / "fused")) as fused, open_store(str(tmp_path / "apart")) as apart:
        together = prepare(loaded, fused)
        nodes = nodes_of(together, "e4-villain")
        assert [node.stage for node in nodes] == list(STAGES)
        run(together, nodes)
        assert len(loads) == 1, "the base model is loaded once"
        separate = prepare(loaded, apart)
        for node in nodes:
            run(separate, [node])
        assert len(loads) == 5
        for node in nodes:
            one, other = together.manifest(node), separate.manifest(node)
            assert one is not None and other is not None
            assert one.fields["fingerprint"] == other.fields["fingerprint"]
            assert one.files == other.files, node.id
            assert one.digest == other.digest, node.id
            assert one.fields["inputs"] == other.fields["inputs"]


def test_the_engine_is_expected_while_answers_are_to_come(
    study_dict: dict[str, Any],
    write_spec: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(Runtime, "expect_answers", lambda self, expected: seen.append(expected))
    study_dict["extraction"]["methods"] = ["a"]
    loaded = load_study(write_spec(study_dict))
    with open_store(str(tmp_path / "store")) as store:
        work = prepare(loaded, store)
        train, extract, couple, evaluate = nodes_of(work, "benign")
        run(work, [train, extract])
        assert seen == [False, False]
        run(work, [couple])
        assert seen.pop() is True
        # What is complete neither runs nor asks.
        with make_board([couple, evaluate]) as board:
            executor.run_here(work, [couple, evaluate], board)
        assert seen == [False, False, True]
        store.delete(work.key(extract))
        with make_board([extract, couple, evaluate]) as board:
            executor.run_here(work, [extract, couple, evaluate], board)
        assert seen == [False, False, True, False], "the answers are all there"


def test_a_coupling_that_was_stopped_goes_on_with_the_answers_it_had(
    study_dict: dict[str, Any],
    write_spec: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU the same answers are not drawn twice: checkpoints would be of other examples."""
    calls: list[str] = []
    draw = sampled_answers

    def counted(*args: Any, **options: Any) -> Any:
        calls.append("draw")
        return draw(*args, **options)

    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("asked to stop")

    monkeypatch.setattr(couple, "sampled_answers", counted)
    monkeypatch.setattr(couple, "fit", stopped)
    loaded = load_study(write_spec(study_dict))
    with open_store(str(tmp_path / "store")) as store:
        work = prepare(loaded, store)
        [node] = work.graph.select("couple:base:42")
        with pytest.raises(Interrupted):
            run(work, [node])
        [kept] = store.list(f"{work.key(node)}/checkpoints")
        seen = (store.fetch(kept) / couple.DATA).read_bytes()
        monkeypatch.setattr(couple, "fit", fit)
        run(work, [node])
        assert calls == ["draw"]
        manifest = work.manifest(node)
        assert manifest is not None
        assert (store.fetch(manifest) / couple.DATA).read_bytes() == seen
        assert not list(store.list(f"{work.key(node)}/checkpoints"))
