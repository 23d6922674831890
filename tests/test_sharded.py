"""A model spread over several processes: the same updates and hidden states as in one."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import once_value
from made_examples import random_examples
from safetensors.torch import load_file, save_file
from small_training import SMALL
from test_training import same_update, trained
from typer.testing import CliRunner

from personaspace import interrupt
from personaspace.activations import spread
from personaspace.activations.extract import Passage, hidden_states
from personaspace.cli.app import app
from personaspace.errors import Interrupted, UserError
from personaspace.fastlora import Costs
from personaspace.models import lora, preflight, sharding
from personaspace.models.load import load_config, load_model
from personaspace.models.team import Team
from personaspace.study.hardware import Hardware
from personaspace.study.inputs import Model
from personaspace.study.load import resolve
from personaspace.study.spec import Experiment
from personaspace.training import data_parallel
from personaspace.training.checkpoints import Checkpoints
from personaspace.training.plain import PlainStep
from personaspace.training.trainer import StepLog

pytestmark = pytest.mark.slow

#: 9 examples in fours: the last step of an epoch has one, so that a process has none.
EXAMPLES = random_examples(9)
PLAIN = SMALL.model_copy(update={"dropout": 0.0})

Adapter = dict[str, torch.Tensor]


def job(folder: Path, **changed: Any) -> data_parallel.Job:
    made = data_parallel.Job(
        model=Model(name=str(folder), dtype="float32"),
        examples=EXAMPLES,
        recipe=PLAIN,
        over=None,
        adapter_seed=3,
        run_seed=7,
        field="training",
        checkpoint=None,
        sharded=True,
    )
    return replace(made, **changed)


def led(
    made: data_parallel.Job,
    save: Callable[[int, Callable[[Path], None]], None] = lambda step, write: None,
    advance: Callable[[StepLog], None] | None = None,
    processes: int = 2,
    folder: Path | None = None,
) -> tuple[Adapter, list[StepLog]]:
    """The adapter and log of a run whose processes hold a part of the model each."""
    with data_parallel.leading(made, [""] * processes) as team:
        assert team is not None
        base = data_parallel.sharded_base(made, team)
        assert sharding.is_sharded(base)
        with data_parallel.adapter(made, base) as model:
            trainer = data_parallel.trainer(made, model, team)
            log = trainer.run(Checkpoints(load=lambda: made.checkpoint, save=save), advance)
            if folder is not None:
                lora.save(model, folder, "the base")
            return {n: p.detach().clone() for n, p in trainer.parameters.items()}, log


@pytest.fixture(scope="module")
def undisturbed(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Adapter, list[StepLog], Path]:
    return once_value(
        tmp_path_factory,
        "sharded",
        lambda folder: (*led(job(tiny_model), folder=folder), folder),
    )


def test_a_sharded_model_makes_the_update_of_a_whole_one(
    undisturbed: tuple[Adapter, list[StepLog], Path], loaded: Any
) -> None:
    before, alone, log = trained(loaded.model, PLAIN, EXAMPLES)
    together, shared_log, _ = undisturbed
    assert same_update(together, alone, before, 1e-4)
    assert [e.loss for e in shared_log] == pytest.approx([e.loss for e in log], rel=1e-5)
    norms = [entry.gradient_norm for entry in log]
    assert [e.gradient_norm for e in shared_log] == pytest.approx(norms, rel=1e-4)
    assert [e.tokens for e in shared_log] == [e.tokens for e in log]


def test_the_adapter_is_an_ordinary_one(
    undisturbed: tuple[Adapter, list[StepLog], Path], loaded: Any
) -> None:
    adapter, _, folder = undisturbed
    with lora.applied(loaded.model, folder) as model:
        held = {n: p for n, p in model.named_parameters() if "lora_" in n}
        assert len(held) == len(adapter)
        names = {n.replace(".adapter0.", ".default."): p for n, p in held.items()}
        for name, parameter in adapter.items():
            assert torch.equal(names[name.removeprefix("base_model.model.")], parameter)


@pytest.mark.long
def test_all_stop_at_the_same_step_and_go_on_bit_for_bit(
    tiny_model: Path, tmp_path: Path, undisturbed: tuple[Adapter, list[StepLog], Path]
) -> None:
    saved = []

    def save(step: int, write: Callable[[Path], None]) -> None:
        saved.append(step)
        write(tmp_path)

    def stop_after_two(entry: StepLog) -> None:
        if entry.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with interrupt.caught():
        with pytest.raises(Interrupted):
            led(job(tiny_model), save, stop_after_two)
        interrupt.reset()
    assert not multiprocessing.active_children()
    assert saved == [3]  # all learn of it in the next step
    adapter, log = led(job(tiny_model, checkpoint=tmp_path))
    wanted, wanted_log, _ = undisturbed
    assert log == wanted_log
    assert all(torch.equal(adapter[name], wanted[name]) for name in wanted)


@pytest.mark.long
def test_a_process_killed_within_a_pass_is_named(tiny_model: Path) -> None:
    def kill_the_other(entry: StepLog) -> None:
        (other,) = multiprocessing.active_children()
        other.kill()

    with pytest.raises(RuntimeError, match=r"process 1 of the training .* exit code -9"):
        led(job(tiny_model), advance=kill_the_other)
    assert not multiprocessing.active_children()


@pytest.mark.long
def test_a_stop_that_ends_the_others_first_is_a_stop(tiny_model: Path) -> None:
    """A signal to the group ends processes that are not yet ready to leave it to the leader."""

    def stop_all(entry: StepLog) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        (other,) = multiprocessing.active_children()
        other.kill()

    with interrupt.caught():
        with pytest.raises(Interrupted):
            led(job(tiny_model), advance=stop_all)
        interrupt.reset()
    assert not multiprocessing.active_children()


def passages(count: int = 7) -> list[Passage]:
    return [
        Passage(e.ids[: len(e.ids) // 2], e.ids[len(e.ids) // 2 :] if n % 3 else ())
        for n, e in enumerate(random_examples(count, seed=4))
    ]


def test_hidden_states_of_a_sharded_model_are_those_of_a_whole_one(
    undisturbed: tuple[Adapter, list[StepLog], Path], tiny_model: Path, loaded: Any
) -> None:
    adapter = undisturbed[2]
    texts = passages()
    seen: list[int] = []
    with lora.applied(loaded.model, adapter):
        alone = hidden_states(loaded.model, texts, [1, 3])
    model = Model(name=str(tiny_model), dtype="float32")
    # Batches of one text: one process has four, the other three.
    reading = spread.Reading(model, [adapter], texts, [1, 3], token_budget=1)
    together = spread.hidden_states(reading, ["", ""], seen.append)
    assert sum(seen) == len(texts)
    for mine, theirs in (
        (together.last_NLH, alone.last_NLH),
        (together.mean_NLH, alone.mean_NLH),
    ):
        assert np.abs(mine - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert (together.answered_N == alone.answered_N).all()
    assert together.taken == alone.taken
    # The margin is telling: without the adapter they are others.
    bare = hidden_states(loaded.model, texts, [1, 3])
    assert np.abs(bare.last_NLH - alone.last_NLH).max() > 1e-3 * np.abs(alone.last_NLH).max()


def test_a_process_reads_its_own_rows_alone(tiny_model: Path) -> None:
    """Counted without processes: what each would be asked to fill, of which tensor."""
    made = sharding.skeleton(
        load_config(Model(name=str(tiny_model), dtype="float32")), torch.float32
    )
    assert all(p.is_meta for p in made.parameters())
    for size, ranks in ((7, 2), (8, 3), (2, 4)):
        cut = [sharding.Rows.of(size, rank, ranks) for rank in range(ranks)]
        chunks = torch.arange(size).chunk(ranks)
        for rows, chunk in zip(cut, chunks, strict=False):
            assert list(range(rows.start, rows.stop)) == chunk.tolist()
        assert sum(rows.stop - rows.start for rows in cut) == size


def test_files_that_name_parameters_otherwise_are_refused(
    tiny_model: Path, tmp_path: Path, study_dict: dict[str, Any]
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "other")
    weights = load_file(folder / "model.safetensors")
    weights["other.name"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"under their own names, first model\.layers\.1\.mlp\.up_proj"
    ):
        led(job(folder))
    assert not multiprocessing.active_children()
    # And before: validate, run and the conductor look where the study will need several.
    with pytest.raises(UserError, match="cannot be spread over several GPUs: 1 of its"):
        sharding.check_names(Model(name=str(folder), dtype="float32"))
    study_dict["model"]["name"] = str(folder)
    study = resolve(Experiment.model_validate(study_dict), tmp_path)
    preflight.check(study)
    spread_out = study.spec.model_copy(update={"hardware": Hardware(sharding="full")})
    with pytest.raises(UserError, match="cannot be spread over several GPUs"):
        preflight.check(replace(study, spec=spread_out))


@pytest.mark.long
def test_tied_embeddings_and_rows_that_do_not_divide(tmp_path: Path) -> None:
    """Gemma-2: the output layer is the embedding, widths are no multiple of three processes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 301, "hidden_size": 68, "intermediate_size": 130, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
    config = AutoConfig.for_model("gemma2", **sizes, **heads, sliding_window=8)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = Model(name=str(tmp_path), dtype="float32")
    texts = [Passage(tuple(range(3 + n, 20 + n)), (7, 8)) for n in range(4)]
    alone = hidden_states(load_model(model), texts, [0, 2])
    reading = spread.Reading(model, [], texts, [0, 2])
    together = spread.hidden_states(reading, ["", "", ""])
    gap = np.abs(together.last_NLH - alone.last_NLH).max()
    assert gap <= 1e-5 * np.abs(alone.last_NLH).max()


@pytest.mark.parametrize("tokens_that_fit", [100, 1000, 4000, 100_000])
def test_rows_are_planned_for_the_least_memory(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, tokens_that_fit: int
) -> None:
    """The trials' peaks are those of a made-up card: what is planned must fit there."""
    layers = loaded.model.config.num_hidden_layers
    hidden = loaded.model.config.hidden_size
    edge = hidden * loaded.model.dtype.itemsize
    true = Costs(layers, kept=30 * edge, edge=edge, working=90 * edge, fixed=500_000)
    free = true.step(tokens_that_fit, 0)

    class Alone(Team):
        def most(self, number: int) -> int:
            return number

    def peak(self: PlainStep, examples: Any, recomputed: int) -> int:
        used = true.step(sum(len(e.ids) for e in examples), recomputed)
        assert used <= free, "a trial does not fit"
        return used

    monkeypatch.setattr(PlainStep, "_peak", peak)
    monkeypatch.setattr("personaspace.training.plain.free_bytes", lambda device: free)
    made = job(Path("unused"))
    with data_parallel.adapter(made, loaded.model) as model:
        step = PlainStep(model, 4096, 40)
        step.team = Alone(0, 2, lambda: None)
        plan = step._planned_together(max(EXAMPLES, key=lambda e: len(e.ids)), step.team)
        moments = 8 * sum(p.numel() for p in step.trained)
    assert true.step(plan.row_tokens, plan.checkpointed) + moments <= free + true.fixed // 10
    if tokens_that_fit == 100_000:
        assert plan.row_tokens == 4096 and plan.checkpointed == 0


@pytest.mark.long
def test_stages_of_a_spread_model_make_the_same_artifacts(
    study_dict: dict[str, Any], write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    """Through the stages: the same keys, and adapters and hidden states equal to rounding."""
    study_dict["training"]["dropout"] = 0.0
    study_dict["extraction"]["methods"] = ["a"]
    found: list[dict[str, Path]] = []
    for name, hardware in (("whole", {}), ("spread", {"sharding": "full", "gpus": 2})):
        study_dict["hardware"] = hardware
        spec, store = write_spec(study_dict, f"{name}.yaml"), tmp_path / name
        command = ["run", str(spec), "--store", str(store), "--only", "train:e4-villain"]
        outcome = CliRunner().invoke(app, [*command, "--only", "extract:e4-villain"])
        assert outcome.exit_code == 0, outcome.output
        assert ("spread over 2 processes" in outcome.output) == (name == "spread")
        fields = [json.loads(path.read_text())["fields"] for path in store.rglob("manifest.json")]
        (of_training,) = (each for each in fields if each.get("stage") == "train")
        assert of_training.get("processes") == (2 if name == "spread" else None)
        found.append(
            {
                "/".join(
                    p for p in path.relative_to(store).parts if not p.startswith("data-")
                ): path
                for path in store.rglob("*.safetensors")
            }
        )
    whole, parts = found
    assert whole.keys() == parts.keys() and len(whole) == 2  # keys hold fingerprints
    for file in whole:
        ours, theirs = load_file(parts[file]), load_file(whole[file])
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            gap = (ours[key].double() - value.double()).abs().max()
            # Stored hidden states are in 16 bits.
            assert gap <= 8e-3 * max(1e-3, float(value.double().abs().max())), (file, key)
