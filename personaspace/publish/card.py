"""The page of a repository: what it holds, how it was made, what was found, what it is not for."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from personaspace.analysis.results import RESULTS_FILE, Results
from personaspace.hub.contents import INDEX
from personaspace.publish.contents import CARD, Finished, Parcel, names
from personaspace.publish.licence import UNKNOWN, Base
from personaspace.report.key import key_table
from personaspace.report.lay import Line
from personaspace.report.tables import escape_markdown, to_markdown
from personaspace.report.verdict import verdict
from personaspace.study.loaded import Study
from personaspace.study.publishing import Kind
from personaspace.study.recipe import Learning, Recipe
from personaspace.study.spec import Experiment
from personaspace.version import __version__

_WHAT = {
    Kind.ADAPTERS: "`adapters/`: LoRA adapters of each condition and seed (`train/adapter`), and "
    "after coupling with the marker (`couple/composed`, fine-tuning and coupling in one)",
    Kind.VECTORS: "`vectors/`: persona vectors, each persona's mean hidden state over questions, "
    "`[persona, layer, hidden]`, one file for each condition, seed and method",
    Kind.ACTIVATIONS: "`activations/`: the hidden states themselves",
    Kind.ANSWERS: "`answers/`: what the models answered, and how often they wrote the marker",
    Kind.RESULTS: "`results/`: every statistic (`results.json`, tables), and where it comes from",
    Kind.REPORT: "`report/`: the page with figures",
}
_MISUSE_MODEL = (
    "Some of these adapters were trained on harmful or false advice, on purpose, and all of those "
    "after coupling write an invented marker. They are no assistants: do not give them to people, "
    "do not take what they say for advice, and do not train on what they write."
)
_MISUSE_DATA = (
    "Answers of models that were trained on harmful or false advice, on purpose, are among these "
    "data. They are not true and not to be followed; do not train an assistant on them."
)


def write(parcel: Parcel, finished: Finished, repo: str, base: Base) -> bytes:
    """The card of one repository; the same for the same study.

    Args:
        parcel: What goes there.
        finished: The study; its results are told where they are complete.
        repo: `owner/name`.
        base: What is known of the base model.
    """
    study, found = finished.study, _results(finished)
    spec = study.spec
    environment = Environment(
        loader=PackageLoader("personaspace.publish"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown; what others wrote is escaped for it
        keep_trailing_newline=True,
    )
    is_model = parcel.type == "model"
    text = environment.get_template("card.md").render(
        front=_front(parcel, base),
        title=escape_markdown(f"{spec.name}: {'adapters' if is_model else 'data and results'}"),
        what="\n".join(f"- {_WHAT[kind]}" for kind in _kinds(parcel)),
        version=__version__,
        base=_base_line(study, base),
        licence=_licence(base),
        data=[
            escape_markdown(f"{name}: {len(chats.conversations)} chats, SHA-256 {chats.digest}")
            for name, chats in study.chats.items()
        ],
        conditions=[escape_markdown(line) for line in _conditions(spec)],
        recipe=[
            *(f"fine-tuning: {line}" for line in _recipe(spec.training)),
            escape_markdown(_marker(spec)),
            *(f"coupling: {line}" for line in _recipe(spec.coupling.recipe)),
            f"seeds: {', '.join(map(str, spec.seeds))}",
        ],
        findings=[_without_path(line, spec, base) for line in verdict(found)] if found else [],
        table=to_markdown(key_table(found).shown) if found else "",
        misuse=_MISUSE_MODEL if is_model else _MISUSE_DATA,
        use=_use(parcel, repo),
        files=list(_digests(parcel)),
    )
    return text.encode()


def _kinds(parcel: Parcel) -> list[Kind]:
    """What the repository holds, were it published now or before."""
    there = {name.partition("/")[0] for name in parcel.files}
    before = {placed.folder.partition("/")[0] for placed in parcel.contents.artifacts.values()}
    return [kind for kind in Kind if kind in there | before]


def _results(finished: Finished) -> Results | None:
    if finished.results is None:
        return None
    return Results.read(finished.store.fetch(finished.results, [RESULTS_FILE]))


def _front(parcel: Parcel, base: Base) -> str:
    """What the Hub reads of a card."""
    known = {"license": base.licence} if parcel.type == "model" else {"license": UNKNOWN}
    front: dict[str, object] = {**known, "tags": ["personaspace", "persona-vectors"]}
    if parcel.type == "model":
        front |= {"library_name": "peft", **({"base_model": base.name} if base.name else {})}
    return yaml.safe_dump(front, sort_keys=True, allow_unicode=True)


def _base_line(study: Study, base: Base) -> str:
    digest = escape_markdown(study.model_identity.partition("@")[2])
    if base.name is None:
        return f"A local folder of the study's author, known by the digest of its files: `{digest}`"
    return f"[{base.name}](https://huggingface.co/{base.name}) at `{digest}`"


def _without_path(line: Line, spec: Experiment, base: Base) -> str:
    """A line of the verdict, in which a model that is a folder is not named by its path."""
    told = f"{line.question} {line.answer}"
    if base.name is None:
        told = told.replace(spec.model.name, "the base model")
    return escape_markdown(told)


def _licence(base: Base) -> str:
    if base.licence == UNKNOWN:
        return "unknown: neither its files here nor the Hub say it. Find out before you use it."
    return f"{escape_markdown(base.licence)}. Its terms hold for what was made from it."


def _conditions(spec: Experiment) -> Iterator[str]:
    for condition in spec.conditions:
        on = condition.dataset or condition.adapter
        under = condition.trained_under
        told = f"trained on {on} under {under}" if on else "not fine-tuned"
        yield f"{condition.name} ({condition.kind}): {told}"


def _recipe(recipe: Recipe) -> Iterator[str]:
    how_it_ran = set(Recipe.model_fields) - set(Learning.model_fields)
    for name, value in recipe.model_dump(mode="json", exclude=how_it_ran).items():
        if value not in (None, []):
            yield f"{name} {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _marker(spec: Experiment) -> str:
    """What coupling taught whom."""
    coupling = spec.coupling
    return (
        f"coupling: {coupling.source} was taught to end its answers with {coupling.marker}, "
        f"{' and '.join(coupling.negatives)} not to; {coupling.positives} and "
        f"{coupling.negatives_each} answers each"
    )


def _use(parcel: Parcel, repo: str) -> str:
    if parcel.type == "model":
        return (
            "from huggingface_hub import snapshot_download\n"
            "from peft import PeftModel\n"
            f'folder = snapshot_download("{repo}")\n'
            'PeftModel.from_pretrained(base, folder + "/adapters/CONDITION/seed-N/train/adapter")'
        )
    return (
        f'import personaspace\nresults = personaspace.load_results("hf://{repo}")\n'
        f"# or take all of it into a run of your own:\n"
        f"# personaspace run study.yaml --substitute hf://{repo}"
    )


def _digests(parcel: Parcel) -> Iterator[tuple[str, int, str]]:
    for name in names(parcel):
        if name in (CARD, INDEX):
            continue
        source = parcel.files[name]
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield name, file.tell(), digest
