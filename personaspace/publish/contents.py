"""What of a study is published, and where in which repository it goes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from personaspace.console import counted, verb
from personaspace.errors import UserError, without_passwords
from personaspace.hub.contents import INDEX, Contents, Placed, RepoType
from personaspace.store import Manifest, Store
from personaspace.study.loaded import Study
from personaspace.study.publishing import Kind

SPEC = "study.yaml"
CARD = "README.md"


@dataclass(frozen=True)
class Made:
    """One run of one stage.

    Attributes:
        stage: The stage.
        condition: Its condition; empty: it is of the whole study.
        seed: Its seed; -1: it is of the whole study.
        manifest: Of its artifact; None: it is not complete.
    """

    stage: str
    condition: str
    seed: int
    manifest: Manifest | None


@dataclass(frozen=True)
class Finished:
    """A study with what its store has of it.

    Attributes:
        study: The study.
        store: Where its artifacts are.
        runs: Of every stage.
    """

    study: Study
    store: Store
    runs: Sequence[Made]

    @property
    def results(self) -> Manifest | None:
        """Of the statistics; None: they are not complete."""
        return next((run.manifest for run in self.runs if run.stage == "aggregate"), None)


#: Stages that a kind is read from. Vectors are means of what `extract` made, and no artifact.
STAGES: dict[Kind, tuple[str, ...]] = {
    Kind.ADAPTERS: ("train", "couple"),
    Kind.VECTORS: ("extract",),
    Kind.ACTIVATIONS: ("extract",),
    Kind.ANSWERS: ("evaluate", "judge", "logodds", "steer"),
    Kind.RESULTS: ("aggregate",),
    Kind.REPORT: ("report",),
}


def repo_of(kind: Kind) -> RepoType:
    """Adapters are a model, all else is data."""
    return "model" if kind is Kind.ADAPTERS else "dataset"


@dataclass
class Parcel:
    """What goes to one repository.

    Attributes:
        type: The repository's.
        kinds: That were asked for.
        files: Path in the repository, and the file on this machine or its bytes.
        contents: The index of what is in it.
    """

    type: RepoType
    kinds: list[Kind]
    files: dict[str, Path | bytes] = field(default_factory=dict)
    contents: Contents = field(default_factory=lambda: Contents(study="", model="", artifacts={}))

    @property
    def folders(self) -> tuple[str, ...]:
        """Beginnings of the paths that these kinds own."""
        return tuple(f"{kind}/" for kind in self.kinds)


def collect(
    finished: Finished, kinds: Sequence[Kind], scratch: Path
) -> tuple[list[Parcel], list[str]]:
    """The files of a study's complete artifacts, by repository.

    Args:
        finished: The study and its store.
        kinds: What is published.
        scratch: A folder for what is made here (vectors), which must last as long as the parcels.

    Returns:
        The parcels, and a note on each kind of which something is not complete.

    Raises:
        UserError: Nothing of what was asked for is complete, or a file is damaged.
    """
    parcels: dict[RepoType, Parcel] = {}
    notes = []
    for kind in kinds:
        parcel = parcels.setdefault(repo_of(kind), Parcel(repo_of(kind), []))
        parcel.kinds.append(kind)
        runs = [run for run in finished.runs if run.stage in STAGES[kind]]
        complete = [(run, run.manifest) for run in runs if run.manifest is not None]
        if len(complete) < len(runs):
            lacking = len(runs) - len(complete)
            told = verb(lacking, "is not", "are not")
            notes.append(f"{kind}: {lacking} of {counted(len(runs), 'stage')} {told} complete")
        if kind is Kind.VECTORS:
            _add_vectors(finished, [made for _, made in complete], parcel, scratch)
        else:
            _add(finished, complete, kind, parcel)
    filled = [parcel for parcel in parcels.values() if parcel.files]
    if not filled:
        asked = ", ".join(kinds)
        name, place = finished.study.spec.name, finished.store.url
        raise UserError(f"{name}: no {asked} in {place} for this spec")
    for parcel in filled:
        parcel.files[SPEC] = spec_text(finished.study)
    return filled, notes


def _add(
    finished: Finished, complete: Iterable[tuple[Made, Manifest]], kind: Kind, parcel: Parcel
) -> None:
    placed = dict(parcel.contents.artifacts)
    for run, manifest in complete:
        here = f"{run.condition}/seed-{run.seed}/{run.stage}" if run.condition else ""
        folder = f"{kind}/{here}".rstrip("/")
        source = finished.store.fetch(manifest)
        for name in manifest.files:
            parcel.files[f"{folder}/{name}"] = source / name
        placed[manifest.key] = Placed(folder=folder, manifest=manifest.model_dump())
    parcel.contents = Contents(
        study=finished.study.spec.name, model=finished.study.model_identity, artifacts=placed
    )


def _add_vectors(
    finished: Finished, manifests: Iterable[Manifest], parcel: Parcel, scratch: Path
) -> None:
    from personaspace.activations.files import find_activations, open_activations, write_vectors

    made = Path(tempfile.mkdtemp(dir=scratch))
    for manifest in manifests:
        for path in find_activations(finished.store.fetch(manifest))[0]:
            write_vectors(made / path.name, open_activations(path))
            parcel.files[f"{Kind.VECTORS}/{path.name}"] = made / path.name
    parcel.contents = parcel.contents.model_copy(
        update={"study": finished.study.spec.name, "model": finished.study.model_identity}
    )


def spec_text(study: Study) -> bytes:
    """The study's file as it was checked, without what it leaves at its default, and no secrets.

    Nor where it is published: whoever runs it again is not to publish there.
    """
    values = study.spec.model_dump(mode="json", exclude_unset=True, exclude={"publish"})
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return without_passwords(text).encode()


def names(parcel: Parcel) -> list[str]:
    """Paths in the repository, the index last, which says that all the rest is there."""
    return [*sorted(name for name in parcel.files if name not in (INDEX, CARD)), CARD, INDEX]
