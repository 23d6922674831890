"""`personaspace inspect`: what tokenizer, template and configuration make of a model's personas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from personaspace.cli.options import AsJson
from personaspace.console import console, print_json, shown, size
from personaspace.errors import UserError

if TYPE_CHECKING:
    from personaspace.models.chat import Example
    from personaspace.models.implementation import Choice
    from personaspace.models.preflight import Report
    from personaspace.study.loaded import Study
    from personaspace.study.spec import Experiment


def _study(target: str, changes: dict[str, Any]) -> Study:
    """A study's file, or the published study on another model."""
    from personaspace.study.load import load_study, resolve
    from personaspace.study.validate import check

    if target.endswith((".yaml", ".yml")):
        if changes:
            raise UserError(f"--{sorted(changes)[0].replace('_', '-')}: {target} says it itself")
        return load_study(target)
    raw = {
        "model": {"name": target, **changes},
        "conditions": [{"name": "base"}],
        "extraction": {"layers": "all"},
        "analysis": {"layer": None},
    }
    spec, problems = check(raw)
    if spec is None:
        raise UserError("\n".join(map(str, problems)))
    return resolve(spec, Path.cwd())


def _arguments(given: list[str]) -> dict[str, Any]:
    from personaspace.study.sources import parse_yaml

    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise UserError(f"--argument {each}: as in enable_thinking=false")
        found[name] = parse_yaml(value, f"--argument {name}")
    return found


def inspect(
    target: Annotated[
        str, typer.Argument(help="A model (folder, hub name, builtin:…) or a study's file.")
    ],
    revision: Annotated[str, typer.Option(help="Commit of a hub name.")] = "",
    date: Annotated[str, typer.Option(help="As model.date: the day the template is told.")] = "",
    argument: Annotated[
        list[str] | None,
        typer.Option(help="As model.template_arguments: enable_thinking=false."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model makes of personas: prompts, loss, ends, layers, adapters, memory.

    Nothing is loaded but tokenizer and configuration; a model that could not serve is refused.
    """
    from personaspace.models import preflight

    changes: dict[str, Any] = {}
    if revision:
        changes["revision"] = revision
    if date:
        changes["date"] = date
    if argument:
        changes["template_arguments"] = _arguments(argument)
    study = _study(target, changes)
    found = preflight.check(study)
    facts = summary(study, found)
    if as_json:
        print_json(facts)
        return
    _print(study, found, facts)


def of_study(study: Study) -> dict[str, Any] | None:
    """What is found of a study's model; None where its files are not on this machine.

    Raises:
        UserError: The model cannot serve.
    """
    from personaspace.study import base_model

    if not base_model.can_be_inspected(study.spec.model):
        return None
    from personaspace.models import preflight

    return summary(study, preflight.check(study))


def in_short(facts: dict[str, Any]) -> str:
    """The same in two lines."""
    place = "the system message" if facts["personas_in"] == "system" else "the first user turn"
    prefix = f", before answers {facts['answer_prefix']!r}" if facts["answer_prefix"] else ""
    return shown(
        f"personas in {place}{prefix}; answers end with {_ends(facts)}; adapters "
        f"on {facts['adapted_layers']} of {facts['linear_layers']} linear layers in "
        f"{facts['adapted_blocks']} of {facts['layers']} decoder layers\n"
        f"weights take {size(facts['weights_bytes'])}, with adapter and optimiser "
        f"{size(facts['training_bytes'])}; GPUs of one host that it takes at the least:\n"
        + "\n".join(f"  {line}" for line in gpu_lines(facts))
    )


def _ends(facts: dict[str, Any]) -> str:
    """The tokens that end an answer; what is none of its own is said."""
    text = " ".join(facts["end_tokens"])
    if facts["text_ends"]:
        plain = ", ".join(map(repr, facts["text_ends"]))
        text += f" (of these text, where answers are cut off: {plain}; see eos_token_id)"
    return text


def gpu_lines(facts: dict[str, Any]) -> list[str]:
    """How many of which card each use takes: a line a use."""
    lines = []
    for use in next(iter(facts["gpus"].values())):
        counts = [(card, counts[use]) for card, counts in facts["gpus"].items()]
        told = ", ".join(f"{n or 'none'} of {card} GB" for card, n in counts)
        lines.append(f"{use}: {told}")
    return lines


def implementations(choices: Sequence[Choice]) -> list[str]:
    """What will compute training and hidden states, and why: a line for all parts alike."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for choice in choices:
        taken = choice.taken or "fused or reference"
        told.setdefault((choice.wanted, taken, choice.reason), []).append(choice.field)
    return [
        shown(f"implementation of {', '.join(fields)}: {taken} (asked for {wanted}): {reason}")
        for (wanted, taken, reason), fields in told.items()
    ]


def summary(study: Study, found: Report) -> dict[str, Any]:
    """All that is found, as plain values."""
    from personaspace.models.footprint import CARDS, uses

    spec, made, prompted, memory = study.spec, found.made, found.prompted, found.memory
    judge = found.judge
    return {
        "model": spec.model.name,
        "identity": study.model_identity,
        "architecture": made.name,
        "model_type": made.kind,
        "layers": made.layers,
        "hidden_size": made.hidden,
        "parameters": memory.parameters,
        "expert_parameters": made.experts,
        "windowed_layers": made.windowed,
        "recurrent_layers": made.recurrent,
        "attention": made.attention,
        "rows": str(made.rows),
        **prompted.recorded(),
        "text_ends": prompted.text_ends,
        "writes_date": prompted.dated,
        "date": None if prompted.how.date is None else prompted.how.date.isoformat(),
        "template_arguments": dict(prompted.how.arguments),
        "targets": list(found.training.targets),
        "adapted_layers": found.training.layers,
        "linear_layers": found.training.of,
        "adapted_blocks": found.training.blocks,
        "adapter_parameters": memory.adapter_parameters,
        "weights_bytes": memory.weights,
        "training_bytes": memory.training,
        "smallest_card": memory.smallest_card,
        "gpus": {
            f"{card:g}": {str(use): counts[use] for use in uses(spec)}
            | ({} if judge is None else {"judge": 1 if judge <= card * 10**9 else None})
            for card, counts in memory.table(_cards(spec)).items()
        },
        "spread": [str(use) for use in found.spread],
        "cards": {
            str(card): {
                "weights": memory.weights < card * 10**9,
                "training": memory.left(card) > 0,
                "left_bytes": memory.left(card),
            }
            for card in CARDS
        },
        "prompt": prompted.tokenizer.decode(list(_example(study, found).ids)),
    }


def _cards(spec: Experiment) -> tuple[float, ...]:
    """Memory of the cards that are spoken of: the study's, else those that people have."""
    from personaspace.models.footprint import CARDS

    named = spec.hardware.gpu_memory
    return CARDS if named is None else (named,)


def _example(study: Study, found: Report) -> Example:
    from personaspace.models import chat

    spec, how = study.spec, found.prompted.how
    name = spec.coupling.source
    known = {persona.name: persona for persona in spec.personas}
    prompt = known.get(name, spec.personas[0]).wordings[0]
    messages = chat.with_persona(
        [
            {"role": "user", "content": study.extraction_questions[0]},
            {"role": "assistant", "content": "An answer, which the model is trained to give."},
        ],
        prompt,
        how,
    )
    return chat.answer_example(found.prompted.tokenizer, messages, 1 << 30, how)


def _print(study: Study, found: Report, facts: dict[str, Any]) -> None:
    out, made = console(), found.made
    table = Table(title=f"{facts['model']}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    layers = f"{made.layers} decoder layers of width {made.hidden}"
    layers += f", {made.windowed} of them with a window" if made.windowed else ""
    layers += f", {made.recurrent} of them with a state" if made.recurrent else ""
    experts = f", {facts['expert_parameters']:,} in experts" if made.experts else ""
    where = {"system": "as the system message", "first_user_turn": "before the first question"}
    day = facts["date"] or "none written"
    rows = [
        ("identity", facts["identity"]),
        ("architecture", f"{made.name}: {layers}"),
        ("parameters", f"{facts['parameters']:,}{experts}"),
        ("attention", f"{made.attention}; a row of training: {_ROWS[facts['rows']]}"),
        ("personas", where[facts["personas_in"]]),
        ("prompt ends with", repr(facts["answer_prefix"]) if facts["answer_prefix"] else "–"),
        ("an answer ends with", _ends(facts)),
        ("date", day),
        ("adapters", adapters_line(found)),
        ("sampling", "as the study says; the model's own generation_config counts for ends alone"),
    ]
    for name, text in rows:
        table.add_row(name, shown(str(text)))
    out.print(table)
    memory = Table(title="memory", title_justify="left")
    for name in ("card", f"weights ({study.spec.model.dtype})", "and adapter, training", "left"):
        memory.add_column(name, justify="right")
    for card, fits in facts["cards"].items():
        left = fits["left_bytes"]
        memory.add_row(
            f"{card} GB",
            size(facts["weights_bytes"]),
            size(facts["training_bytes"]),
            size(left) if left > 0 else "does not fit",
        )
    out.print(memory)
    out.print("GPUs of one host, at the least:\n" + "\n".join(gpu_lines(facts)))
    # Where lines end is the template's, not the terminal's.
    out.print(_coloured(found, _example(study, found)), soft_wrap=True)


_ROWS = {
    "mask": "several examples, apart by a mask",
    "positions": "several examples, apart by their positions",
    "single": "one example",
}


def adapters_line(found: Report) -> str:
    """What adapters are put on, in words."""
    own = found.training
    text = (
        f"{own.layers} of {own.of} linear layers, in {own.blocks} of {found.made.layers} decoder "
        f"layers ({', '.join(own.targets)})"
    )
    if own.uneven:
        text += f"; in some decoder layers alone: {', '.join(own.uneven)}"
    if found.made.experts:
        share = found.made.experts / found.made.parameters
        text += f"; the routed experts, {share:.0%} of all parameters, are not adapted"
    return text


def _coloured(found: Report, example: Example) -> Text:
    """The example as text: what carries loss stands out."""
    start = example.loss.index(True)
    decode = found.prompted.tokenizer.decode
    text = Text("one training example; what carries loss is marked:\n", style="bold")
    text.append(str(decode(list(example.ids[:start]))), style="not bold")
    text.append(f"⟦{decode(list(example.ids[start:]))}⟧", style="not bold green")
    return text
