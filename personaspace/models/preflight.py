"""What tokenizer, template and configuration make of a study's personas, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personaspace.errors import UnavailableError, UserError
from personaspace.models import architecture, chat, targets
from personaspace.models.architecture import Architecture
from personaspace.models.chat import Rendering
from personaspace.models.footprint import (
    Footprint,
    Use,
    check_fits,
    check_judge_fits,
    check_not_spread,
    footprint,
    is_spread,
    judge_need,
)
from personaspace.models.load import declared_ends, load_config, load_tokenizer
from personaspace.models.rendering import rendering_of, tells_date
from personaspace.study import adapters, base_model
from personaspace.study.chat_forms import Message
from personaspace.study.inputs import Model
from personaspace.study.model_checks import recipes_of
from personaspace.study.recipe import Recipe, named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from personaspace.study.loaded import Study
    from personaspace.study.spec import Experiment

#: Chats of a data set that are put to the template: one of each order of roles, at most so many.
_ORDERS = 50


@dataclass(frozen=True)
class Prompted:
    """How chats are put to a model.

    Attributes:
        tokenizer: The model's.
        how: The study's way with its template.
        ends: Tokens that end an answer.
        prefix: What the template writes between its generation prompt and an answer.
        dated: Whether the template writes a date.
    """

    tokenizer: PreTrainedTokenizerBase
    how: Rendering
    ends: tuple[int, ...]
    prefix: str
    dated: bool

    def recorded(self) -> dict[str, object]:
        """For manifests."""
        return {
            "personas_in": self.how.personas_in,
            "answer_prefix": self.prefix,
            "end_tokens": self.tokenizer.convert_ids_to_tokens(list(self.ends)),
        }

    @property
    def text_ends(self) -> list[str]:
        """Tokens of text among `ends`, where an answer that has one is cut off."""
        special = chat.special_ids(self.tokenizer)
        ids = [each for each in self.ends if each not in special]
        return [str(self.tokenizer.decode([each])) for each in ids]


def prompted(model: Model, tokenizer: PreTrainedTokenizerBase | None = None) -> Prompted:
    """The model's tokenizer and the way that chats are put to it.

    Raises:
        UserError: Template or tokenizer cannot serve.
    """
    tokenizer = tokenizer or load_tokenizer(model)
    how = rendering_of(model, tokenizer)
    if not chat.turn_end_ids(tokenizer, how):
        raise UserError(
            f"model.name: {model.name}: its chat template writes no special token after an "
            "answer, so nothing would teach the model to end one"
        )
    ends = chat.end_token_ids(tokenizer, how, declared_ends(model))
    prefix = chat.answer_prefix(tokenizer, how)
    return Prompted(tokenizer, how, ends, prefix, tells_date(tokenizer, how))


def _plain(text: str) -> str:
    return "".join(text.split())


def check_personas(
    found: Prompted,
    personas: Mapping[str, str | None],
    questions: Sequence[str],
    vocabulary: int | None = None,
) -> None:
    """Every persona with some questions, in answering and in training, as tokens and back.

    Args:
        found: How chats are put to the model.
        personas: Prompts by the field of `personas` that they stand in.
        questions: Some.
        vocabulary: Tokens that the model knows.

    Raises:
        UserError: A persona is lost on the way, or two are told alike.
    """
    tokenizer, how = found.tokenizer, found.how
    seen: dict[tuple[int, ...], str] = {}
    for field, prompt in personas.items():
        where = f"personas.{field}"
        for question in questions:
            asked: Message = {"role": "user", "content": question}
            said: Message = {"role": "assistant", "content": "Yes, and gladly."}
            messages = chat.with_persona([asked], prompt, how)
            ids = chat.prompt_ids(tokenizer, messages, how)
            back = _plain(str(tokenizer.decode(list(ids))))
            for text, whose in ((prompt or "", where), (question, "a question")):
                if _plain(text) not in back:
                    raise UserError(
                        f"model.name: its tokenizer does not give {whose} back: "
                        f"{text[:60]!r} is lost among its tokens"
                    )
            if vocabulary is not None and max(ids) >= vocabulary:
                raise UserError(
                    f"model.name: its tokenizer writes token {max(ids)}, and its embedding has "
                    f"but {vocabulary} rows: they are not of one model"
                )
            trained = chat.answer_example(
                tokenizer, [*chat.with_persona([asked], prompt, how), said], 1 << 30, how
            )
            start = trained.loss.index(True)
            if trained.ids[:start] != ids:
                raise UserError(f"{where}: the prompt is another in training than in answering")
            other = seen.setdefault(ids, field)
            if other != field and _plain(personas[other] or "") != _plain(prompt or ""):
                raise UserError(f"{where}: the model is told the same as for {other}")


def check_chats(
    found: Prompted, chats: Iterable[Sequence[Message]], prompt: str | None, field: str
) -> None:
    """A data set's chats as the template takes them: one of each order of roles.

    Raises:
        UserError: The template refuses one.
    """
    orders: dict[tuple[str, ...], Sequence[Message]] = {}
    for messages in chats:
        orders.setdefault(tuple(message["role"] for message in messages), messages)
        if len(orders) == _ORDERS:
            break
    for roles, messages in orders.items():
        told = chat.with_persona(messages, prompt, found.how)
        if len(told) < 2:
            raise UserError(
                f"{field}: a chat of {', '.join(roles)}: nothing stands before its answer"
            )
        try:
            chat.answer_example(found.tokenizer, told, 1 << 30, found.how)
        except UserError as error:
            raise UserError(f"{field}: a chat of {', '.join(roles)}: {error}") from None


@dataclass(frozen=True)
class Adapted:
    """What a recipe's adapter is put on.

    Attributes:
        targets: Names that stand for them.
        layers: Linear layers of the decoder that get one.
        of: Linear layers of the decoder that could.
        blocks: Decoder layers with at least one.
        uneven: Targets that are in some decoder layers alone.
    """

    targets: tuple[str, ...]
    layers: int
    of: int
    blocks: int
    uneven: tuple[str, ...]


def adapted(made: Architecture, recipe: Recipe, field: str) -> Adapted:
    """What a recipe's adapter would be put on, counted.

    Raises:
        UserError: A target that the model does not have.
    """
    wanted = targets.chosen_targets(recipe, made.adaptable, field)
    known = [*made.linears, *made.outside]
    for target in wanted:
        if not target or not any(named(name, target) for name in known):
            raise UserError(f"{field}.targets: the model has no linear layer {target!r}")
        targets.check_target(target, made.linears, made.adaptable, field)
    chosen = [n for n in made.adaptable if any(named(n, target) for target in wanted)]
    blocks = {_block(name) for name in chosen}
    uneven = tuple(
        target
        for target in wanted
        if 0 < len({_block(n) for n in made.adaptable if named(n, target)}) < made.layers
    )
    could = [name for name in made.linears if not architecture.routes(name)]
    return Adapted(tuple(wanted), len(chosen), len(could), len(blocks), uneven)


def _block(name: str) -> str:
    """The decoder layer that a linear layer stands in: its name up to the first number."""
    parts = name.split(".")
    number = next(index for index, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: number + 1])


def described(model: Model) -> Architecture:
    """What the model's configuration makes.

    Raises:
        UserError: No model that can be used; names it.
    """
    try:
        return architecture.describe(load_config(model))
    except UnavailableError:
        raise
    except UserError as error:
        said = str(error)
        named = said.startswith("model.name: ")
        raise UserError(said if named else f"model.name: {model.name}: {said}") from None


@dataclass(frozen=True)
class Report:
    """What the preflight found of a study.

    Attributes:
        prompted: How chats are put to the model.
        made: Its architecture.
        training: What fine-tuning adapts.
        coupling: What coupling adapts.
        memory: What the model and fine-tuning's adapter take.
        spread: For what it must be spread over several GPUs, as far as the study says.
        judge: Bytes that a local judge takes of one GPU; None: there is none, or not here.
    """

    prompted: Prompted
    made: Architecture
    training: Adapted
    coupling: Adapted
    memory: Footprint
    spread: tuple[Use, ...]
    judge: int | None


def memory_of(spec: Experiment) -> Footprint:
    """What a study's model takes of GPUs."""
    made = described(spec.model)
    targets = adapted(made, spec.training, "training").targets
    return footprint(spec.model, made, targets, spec.training, spec.generation.gpu_memory)


def _check_spread(spec: Experiment, memory: Footprint) -> tuple[Use, ...]:
    """What the model must be spread for, and that nothing asks for what cannot be then."""
    found = tuple(u for u in (Use.TRAINING, Use.READING) if is_spread(spec, u, memory))
    if found:
        from personaspace.models import sharding

        sharding.check_names(spec.model)
    if Use.TRAINING in found:
        for field, recipe, _ in recipes_of(spec):
            check_not_spread(recipe.implementation, field)
    if Use.READING in found:
        check_not_spread(spec.extraction.implementation, "extraction")
    return found


def judge_memory(spec: Experiment, *, ask: bool = False) -> int | None:
    """Bytes that a local judge takes of one GPU; None: there is none, or not here.

    Args:
        spec: The study.
        ask: Fetch its configuration from the hub where it is not here.

    Raises:
        UserError: No GPU of the study's holds it, or it is no model that can be loaded.
        UnavailableError: The hub does not answer.
    """
    judge = spec.judge
    model = None if judge is None else judge.local_model()
    if model is None:
        return None
    try:
        if not ask and base_model.at_hand(model) is None:
            return None
    except base_model.ModelError as error:
        raise UserError(f"judge.model: {error.reason}") from None
    made = architecture.describe(load_config(model, "judge.model"))
    check_judge_fits(model, made, spec.hardware.gpu_memory)
    return judge_need(model, made)


def check_to_run(study: Study) -> None:
    """`check`, and that the weights are there, which looking at a model does without.

    Raises:
        UserError: It cannot serve.
    """
    check(study)
    base_model.check_weights(study.spec.model)


def check(study: Study) -> Report:
    """All that can be said of a study's model without its weights.

    Raises:
        UserError: It cannot serve.
    """
    spec = study.spec
    made = described(spec.model)
    training = adapted(made, spec.training, "training")
    coupling = adapted(made, spec.coupling.recipe, "coupling.recipe")
    share = spec.generation.gpu_memory
    memory = footprint(spec.model, made, training.targets, spec.training, share)
    check_fits(spec, spec.training, memory)
    spread = _check_spread(spec, memory)
    for condition in spec.conditions:
        if condition.training is not None:
            recipe = spec.recipe_of(condition)
            own = adapted(made, recipe, f"conditions.{condition.name}.training")
            check_fits(spec, recipe, footprint(spec.model, made, own.targets, recipe, share))
    found = prompted(spec.model)
    personas = {
        f"{persona.name}.{field}": text
        for persona in spec.personas
        for field, text in persona.texts().items()
    }
    questions = [q for part in (study.extraction_questions, study.coupling_questions) for q in part]
    check_personas(found, personas, [questions[0], questions[-1]], made.vocabulary)
    for condition in spec.conditions:
        if condition.dataset is not None:
            chats = study.chats[condition.dataset].conversations
            under = condition.persona
            for prompt in (None,) if under is None else spec.persona(under).wordings:
                check_chats(found, chats, prompt, f"datasets.{condition.dataset}")
        if condition.name in study.adapters:
            try:
                adapters.check_modules(study.adapters[condition.name], made.shapes)
            except adapters.AdapterError as error:
                raise UserError(f"conditions.{condition.name}.adapter: {error}") from None
    return Report(found, made, training, coupling, memory, spread, judge_memory(spec))
