"""train: a condition's LoRA adapter on the base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace.console import counted
from personaspace.errors import UnavailableError, UserError
from personaspace.pipeline import spreading
from personaspace.pipeline.context import ADAPTER, TRAINING_LOG, Context, write_json
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Need, Scope, Stage, model_read, recipe_read
from personaspace.pipeline.step_log import teller
from personaspace.pipeline.wordings import turn
from personaspace.seeds import derive_seed
from personaspace.store import Store
from personaspace.study.inputs import Dose
from personaspace.study.loaded import Study
from personaspace.study.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from personaspace.models.chat import Example
    from personaspace.models.team import Team
    from personaspace.training.data_parallel import Job


FIELD = "training"


def kept_dose(key: str, step: int) -> str:
    """Where a run keeps its adapter after a step, until the dose's own stage has it.

    Args:
        key: Of the artifact of the whole run.
    """
    return f"{key}/doses/step-{step:08d}"


def _reads(study: Study, node: Node) -> dict[str, Any]:
    spec = study.spec
    condition = spec.condition(node.condition)
    if condition.adapter is not None:
        return {"adapter": study.adapters[condition.name].digest, "model": model_read(study)}
    assert condition.dataset is not None
    persona = None if condition.persona is None else spec.persona(condition.persona).identity()[1]
    data = spec.datasets[condition.dataset]
    reads = {
        "dataset": [study.chats[condition.dataset].digest, data.bounds()],
        "persona": persona,
        "recipe": recipe_read(spec.recipe_of(condition)),
        "model": model_read(study),
        "seed": node.seed,
    }
    return reads | {"step": condition.step} if isinstance(condition, Dose) else reads


def run(context: Context) -> None:
    """Fine-tune under the condition's persona; writes `adapter/` and `training.json`.

    Where the marker was coupled before, over the adapter that did. A condition that is a published
    adapter has that instead, checked against the model. A dose is taken over from the whole run; if
    that kept none there, its first steps are taken once more.
    """
    from personaspace.models import chat

    condition, spec = context.condition, context.spec
    if condition.adapter is not None:
        _adopt(context, condition.adapter)
        return
    if isinstance(condition, Dose) and _taken_over(context, condition):
        return
    assert condition.dataset is not None
    over = context.adapter("couple")
    recipe = spec.recipe_of(condition)
    forecast(context, recipe, field=FIELD, over=over, below=spec.coupling.recipe)
    under = (None,) if condition.persona is None else spec.persona(condition.persona).wordings
    tokenizer, how = context.runtime.tokenizer, context.runtime.prompted.how
    context.taken["prompts"] = context.runtime.prompted.recorded()
    longest = recipe.max_tokens
    examples = (  # of which there may be a million
        chat.answer_example(
            tokenizer, chat.with_persona(chats, turn(index, under), how), longest, how
        )
        for index, chats in enumerate(context.study.chats[condition.dataset].conversations)
    )
    fit(context, examples, recipe, field=FIELD, over=over)


STAGE = Stage(
    name="train",
    version=1,
    scope=Scope.CONDITION,
    needs=(Need("couple", order="before"),),
    reads=_reads,
    run=run,
    trained_only=True,
    of_whole=(TRAINING_LOG,),
    spec_paths={
        "dataset": "datasets.{dataset}",
        "persona": "personas.{persona}.prompt",
        "recipe": "training",
        "adapter": "conditions.{condition}.adapter",
        "step": "training.doses",
    },
)


def _taken_over(context: Context, dose: Dose) -> bool:
    """Whether the whole run kept its adapter after the dose's step; then that is the artifact."""
    [(whole, folder)] = [(n, path) for n, path in context.inputs.items() if n.stage == "train"]
    key = kept_dose(context.manifests[whole].key, dose.step)
    manifest = context.store.find(key)
    if manifest is None:
        context.progress.say(f"{whole.id} kept no adapter after step {dose.step}: trained again")
        return False
    shutil.copytree(context.store.fetch(manifest) / ADAPTER, context.out / ADAPTER)
    log = json.loads((folder / TRAINING_LOG).read_text(encoding="utf-8"))
    steps = log.pop("steps")[: dose.step]
    log.pop("scope")
    context.taken.update(
        {
            n: v
            for n, v in context.manifests[whole].fields.items()
            if n in ("implementation", "prompts")
        }
    )
    _record(context, steps, log)
    context.spent.append(key)
    return True


def _adopt(context: Context, source: str) -> None:
    """A published adapter, as PEFT would have written one that was trained here."""
    from personaspace.models import lora, preflight
    from personaspace.study import adapters

    field = f"conditions.{context.node.condition}.adapter"
    try:
        folder = adapters.folder_of(source, context.study.folder)
        found = adapters.whole(context.study.adapters[context.node.condition], folder)
        adapters.check_modules(found, preflight.described(context.spec.model).shapes)
        lora.adopt(folder, context.out / ADAPTER, found, context.spec.model.name)
    except adapters.AdapterError as error:
        raise UserError(f"{field}: {error}") from None
    write_json(context.out / TRAINING_LOG, {"adapter": source, "steps": []})
    context.metrics.update(layers=len(found.modules), rank=found.rank)


def forecast(
    context: Context, recipe: Recipe, *, field: str, over: Path | None, below: Recipe
) -> None:
    """Refuse what cannot run, before anything that takes long.

    Args:
        recipe: Of the training to come.
        field: Where the recipe stands in the spec.
        over: Adapter that stays applied below; None: there is none.
        below: Recipe that it was trained by.
    """
    from personaspace.models import implementation

    adapters = [*implementation.planned_below(over, below), *implementation.planned(recipe)]
    implementation.forecast(recipe.implementation, context.spec.model, adapters, field, here=True)


def fit(
    context: Context,
    examples: Iterable[Example],
    recipe: Recipe,
    *,
    field: str,
    over: Path | None,
) -> None:
    """Train an adapter with progress and checkpoints; writes it and its log into the artifact.

    Args:
        field: Where the recipe stands in the spec.
        over: Adapter that stays applied, frozen, below the new one.
    """
    from personaspace.models import implementation, lora
    from personaspace.training import data_parallel
    from personaspace.training.checkpoints import Checkpoints

    left, counts = _usable(context, examples, recipe, field)
    seed = context.node.seed
    until, doses = _steps_of(context)
    kept = Checkpointing(context.store, context.key, context.progress.say)
    sharded = spreading.for_training(context, recipe, field)
    devices = sharded or _devices(context)
    # Several processes go on from the same one. One alone looks for it when it is about to read it:
    # loading the model takes long, and another run may have replaced or finished it meanwhile.
    several = len(devices) > 1
    shared = kept.load() if several else None
    job = data_parallel.Job(
        model=context.spec.model,
        examples=left,
        recipe=recipe,
        over=over,
        # Conditions of one seed share initialisation and order, as in the published study.
        adapter_seed=derive_seed(seed, context.node.stage, "adapter"),
        run_seed=derive_seed(seed, context.node.stage, "run"),
        field=field,
        checkpoint=shared,
        until=until,
        sharded=bool(sharded),
    )
    with (
        data_parallel.leading(job, devices) as team,
        data_parallel.adapter(job, _base(context, job, team)) as model,
    ):
        trainer = data_parallel.trainer(job, model, team)
        base: Any = model.get_base_model()
        chosen = implementation.choose(recipe.implementation, base, field)
        if chosen.slow and not sharded and model.device.type == "cuda":
            context.progress.say(f"trains several times slower than it could: {chosen.reason}")
        _check_doses(context, until, doses, trainer.steps)
        context.progress.start("train", trainer.last)
        kept.last = trainer.last
        name = context.spec.model.name
        kept.doses = Doses(frozenset(doses), lambda found, to: lora.save(model, to, name, found))

        log = trainer.run(
            Checkpoints((lambda: shared) if several else kept.load, kept.save, frozenset(doses)),
            teller(context),
        )
        lora.save(model, context.out / ADAPTER, name)
    assert chosen.taken is not None
    context.taken["implementation"] = chosen.taken
    if several:  # each draws dropout masks of its own
        context.taken["processes"] = len(devices)
    _record(context, [asdict(entry) for entry in log], counts)


def _usable(
    context: Context, examples: Iterable[Example], recipe: Recipe, field: str
) -> tuple[Sequence[Example], dict[str, int]]:
    """The examples of which something is left to learn, and how many were cut or left out."""
    from personaspace.training.trainer import usable

    left, counts = usable(examples, field)
    if counts["truncated"] or counts["dropped"]:
        context.progress.say(
            f"{counted(counts['truncated'], 'example')} cut at {recipe.max_tokens} tokens, "
            f"{counts['dropped']} left out because nothing of the answer remained"
        )
    return left, counts


def _base(context: Context, job: Job, team: Team | None) -> PreTrainedModel:
    """The base model, or this process's part of it."""
    from personaspace.training import data_parallel

    if job.sharded and team is not None:
        return data_parallel.sharded_base(job, team)
    return context.runtime.training_model


def _record(
    context: Context, steps: Sequence[Mapping[str, Any]], counts: Mapping[str, int]
) -> None:
    """Write the log of a training into the artifact, and its numbers into the manifest."""
    scope = [context.node.seed, context.node.stage, context.node.condition]
    write_json(
        context.out / TRAINING_LOG,
        {"scope": scope, **counts, "steps": steps},
    )
    context.metrics.update(
        steps=len(steps),
        loss_first=steps[0]["loss"],
        loss_last=steps[-1]["loss"],
        tokens=sum(entry["tokens"] for entry in steps),
        **counts,
    )


def _devices(context: Context) -> list[str]:
    """What each process of the training sees of CUDA; one of them where there is no choice."""
    from personaspace.models.team import gpus

    wanted = context.condition.gpus
    found = gpus(wanted)
    if 0 < len(found) < wanted:
        context.progress.say(f"{wanted} GPUs asked for, {len(found)} here: training takes longer")
    if len(found) > 1:
        context.progress.say(f"each step's examples are shared out to {len(found)} GPUs")
    return found


def _steps_of(context: Context) -> tuple[int | None, list[int]]:
    """Where a run stops, and after which steps it keeps an adapter for a dose."""
    condition = context.condition
    if context.node.stage != STAGE.name:
        return None, []
    if isinstance(condition, Dose):
        return condition.step, []
    return None, [dose.step for dose in context.spec.doses() if dose.of == condition.name]


def _check_doses(context: Context, until: int | None, doses: Sequence[int], steps: int) -> None:
    """That doses come before the last step, which examples left out for length bring forward."""
    beyond = [step for step in (*doses, until or 0) if step >= steps]
    if beyond:
        raise UserError(
            f"training.doses: {beyond[0]} is not before the last of the "
            f"{counted(steps, 'step')} that {context.condition.name} trains"
        )


@dataclass(frozen=True)
class Doses:
    """What a run keeps for its doses.

    Attributes:
        steps: After which steps.
        write: Writes an adapter of these weights into a folder.
    """

    steps: frozenset[int]
    write: Callable[[Mapping[str, torch.Tensor], Path], None]


def checkpoints_of(store: Store, key: str) -> list[str]:
    """Keys of a run's checkpoints; what a stage keeps beside them (`couple`) is none."""
    return [found for found in store.list(f"{key}/checkpoints") if "/step-" in found]


class Checkpointing:
    """Keeps the latest checkpoint of a run, and its doses, as artifacts below the run's own key."""

    def __init__(self, store: Store, key: str, say: Callable[[str], None]) -> None:
        self.store = store
        self.key = key
        self.say = say
        self.doses: Doses | None = None
        self.last = 0  # step of the run

    def load(self) -> Path | None:
        """Folder of the latest checkpoint that can be read; others are named and removed."""
        for key in reversed(checkpoints_of(self.store, self.key)):
            try:
                return self.store.fetch(key)
            except UnavailableError:
                raise
            except UserError as error:
                self.say(f"goes on without a damaged checkpoint, which is removed: {error}")
                self.store.delete(key)
        return None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write one and drop the former ones."""
        former = checkpoints_of(self.store, self.key)
        key = f"{self.key}/checkpoints/step-{step:08d}"
        with self.store.writer(key) as writer:
            write(writer.folder)
            self._keep(step, writer.folder)  # first: who goes on from this one has it
            writer.commit({"step": step, "of": self.last})
        for old in former:
            if old != key:
                self.store.delete(old)

    def _keep(self, step: int, folder: Path) -> None:
        """Keep the adapter of a checkpoint in a folder, where a dose is wanted there."""
        if self.doses is None or step not in self.doses.steps:
            return
        from personaspace.training.checkpoints import parameters

        key = kept_dose(self.key, step)
        former = self.store.find(key)  # of a run that was stopped before its checkpoint was there
        with self.store.writer(key) as writer:
            self.doses.write(parameters(folder), writer.folder / ADAPTER)
            writer.commit({"step": step}, replace=former or False)
