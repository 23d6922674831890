"""A finished study's results as a researcher wants them: tables, vectors, adapters, the figure.

results = personaspace.load_results("results/")           # what `run --out` wrote
results = personaspace.load_results("s3://bucket/em205", study="study.yaml")
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict

from personaspace.analysis.results import RESULTS_FILE, Results
from personaspace.analysis.results_parts import TrajectoryRow
from personaspace.api.tables import frame
from personaspace.console import counted
from personaspace.errors import UserError
from personaspace.files import read_model
from personaspace.store import Manifest, Store, StoreUnavailable, open_store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from personaspace.activations.files import ActivationFile
    from personaspace.report.figures.style import Style
    from personaspace.study.loaded import Study


class _Artifact(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    node: str
    key: str
    digest: str
    stage: str
    condition: str | None = None
    seed: int | None = None


class _Provenance(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    artifacts: list[_Artifact]
    spec: dict[str, Any] = {}

    @property
    def coupled_first(self) -> bool:
        """Whether the marker was coupled before fine-tuning."""
        return bool(self.spec.get("coupling", {}).get("order") == "before")


@dataclass(frozen=True)
class Vectors:
    """Persona vectors of one condition: means of hidden states over questions.

    Attributes:
        condition: Whose.
        seed: Training seed.
        method: `a` (last prompt token) or `b` (mean over the answer).
        personas: Names along axis P.
        layers: Decoder layers along axis L, counted from 0.
        values_PLH: float32 `[persona, layer, hidden]`; NaN for a persona without any valid answer.
    """

    condition: str
    seed: int
    method: str
    personas: tuple[str, ...]
    layers: tuple[int, ...]
    values_PLH: NDArray[Any]

    def at(self, layer: int) -> pd.DataFrame:
        """One layer's vectors: a row a persona, a column a dimension.

        Raises:
            UserError: The layer was not extracted.
        """
        import pandas as pd

        if layer not in self.layers:
            known = ", ".join(map(str, self.layers))
            raise UserError(f"layer {layer} was not extracted (there are {known})")
        values = self.values_PLH[:, self.layers.index(layer)]
        return pd.DataFrame(values, index=pd.Index(self.personas, name="persona"))


class StudyResults:
    """Results of one study, with its artifacts where the store is known.

    Args:
        folder: Holds `results.json`, `tables/` and `provenance.json`.
        store: Where the study's artifacts are; None: vectors and adapters cannot be had.
    """

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        self.folder = folder
        self.store = store
        self.results = Results.read(folder)

    def __repr__(self) -> str:
        conditions = counted(len(self.results.conditions), "condition")
        return f"<results of {self.results.study}: {conditions}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, and remove what was fetched from a bucket."""
        if self.store is not None:
            self.store.close()

    # --- tables ---------------------------------------------------------------------------------

    def rows(self) -> pd.DataFrame:
        """Every statistic: one row per metric, variant, method, layer, condition, seed and name.

        The base condition has rows of its own; integers are integers. `personaspace.columns()`
        says what each column holds, `measures()` what each kind of row shows and cannot show.
        """
        base = self.results.base
        return frame(self.results.rows, base.name if base else None)

    def measures(self) -> pd.DataFrame:
        """What each kind of row is called, tests, shows and cannot show."""
        import pandas as pd

        return pd.DataFrame([measure.model_dump() for measure in self.results.measures])

    def trajectories(self) -> pd.DataFrame:
        """Measures over the steps of training, by condition; empty without `training.doses`."""
        import pandas as pd

        columns = list(TrajectoryRow.model_fields)
        rows = [row.model_dump() for row in self.results.trajectories]
        table = pd.DataFrame(rows, columns=columns)
        ends = [pair or (None, None) for pair in table.pop("ci95")]
        place = columns.index("ci95")
        for offset, name in enumerate(("ci95_low", "ci95_high")):
            values = pd.Series([pair[offset] for pair in ends], dtype="float64")
            table.insert(place + offset, name, values)
        return table

    def rates(self) -> pd.DataFrame:
        """Answers with the marker, by condition, seed and persona."""
        return self._table("rates")

    def steering(self) -> pd.DataFrame:
        """What steering changed: a row for each vector, dose and measure (docs/results.md)."""
        import pandas as pd

        return pd.DataFrame([row.model_dump(mode="json") for row in self.results.steering])

    def answers(self) -> pd.DataFrame:
        """Every evaluated answer with what was measured of it."""
        return self._table("answers")

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        path = self.folder / "tables" / f"{name}.parquet"
        if not path.is_file():
            raise UserError(f"{path}: not found")
        table = pd.read_parquet(path)
        if "seed" in table:
            table["seed"] = table["seed"].astype("Int64")
        return table

    # --- artifacts ------------------------------------------------------------------------------

    def activations(
        self, condition: str, seed: int | None = None, method: str | None = None
    ) -> ActivationFile:
        """Hidden states of one condition, seed and method; they stay on disk until read.

        Args:
            condition: Its name.
            seed: Training seed; None where the study has one. Base has been extracted once.
            method: `a` or `b`; None: the study's headline method.

        Raises:
            UserError: There is none of that name, or no store to take it from.
        """
        from personaspace.activations.files import open_activations

        method = method or self.results.headline_method or "a"
        found = self._find("extract", condition, seed)
        name = f"{found.condition}.seed-{found.seed}.{method}.safetensors"
        return open_activations(self._fetch(found, [name]) / name)

    def vectors(
        self, condition: str, seed: int | None = None, method: str | None = None
    ) -> Vectors:
        """Persona vectors of one condition; arguments and errors as of `activations`."""
        from personaspace.activations.files import mean_vectors

        file = self.activations(condition, seed, method)
        values_PLH = mean_vectors(file)
        return Vectors(
            file.condition, file.seed, file.method, file.personas, file.layers, values_PLH
        )

    def adapter(self, condition: str, seed: int | None = None, *, coupled: bool = False) -> Path:
        """Folder of a condition's LoRA adapter, for `PeftModel.from_pretrained` on the base model.

        Args:
            condition: Its name.
            seed: Training seed; None where the study has one.
            coupled: The model that answered in the evaluation (fine-tuning and coupling in one
                adapter), instead of the fine-tuned one. Where coupling came before fine-tuning, the
                latter alone is no model of the study.

        Raises:
            UserError: The condition has none, or there is no store to take it from.
        """
        from personaspace.pipeline.stages.couple import COMPOSED, composed_adapter

        if not coupled:
            return self._fetch(self._find("train", condition, seed)) / "adapter"
        first = self._provenance.coupled_first
        of = self.results.of_kind("base")[0].name if first else condition
        couple = self._find("couple", of, seed)
        own = self._maybe("train", condition, couple.seed)
        if first and own is None and condition != of:
            self._find("train", condition, couple.seed)
        folder = self._fetch(couple)
        if (folder / COMPOSED).is_dir() and condition == of:
            return folder / COMPOSED
        # Coupled under another condition, or made before couple kept it.
        target = Path(tempfile.mkdtemp(prefix="personaspace-adapter-")) / "adapter"
        composed_adapter(self._fetch(own) / "adapter" if own else None, folder / "adapter", target)
        return target

    @cached_property
    def _provenance(self) -> _Provenance:
        return read_model(self.folder / "provenance.json", _Provenance)

    def _of_stage(self, stage: str, condition: str) -> list[_Artifact]:
        return [
            artifact
            for artifact in self._provenance.artifacts
            if (artifact.stage, artifact.condition) == (stage, condition)
        ]

    def _maybe(self, stage: str, condition: str, seed: int | None) -> _Artifact | None:
        return next((a for a in self._of_stage(stage, condition) if a.seed == seed), None)

    def _find(self, stage: str, condition: str, seed: int | None) -> _Artifact:
        if condition not in self.results.by_name:
            known = ", ".join(self.results.by_name)
            study = self.results.study
            raise UserError(f"no condition {condition!r} in {study} (there are {known})")
        there = self._of_stage(stage, condition)
        if not there:
            raise UserError(f"{condition} has no {stage} artifact in these results")
        once = stage == "extract" and self.results.by_name[condition].kind == "base"
        chosen = there if seed is None or (once and len(there) == 1) else []
        chosen = chosen or [artifact for artifact in there if artifact.seed == seed]
        if len(chosen) != 1:
            seeds = ", ".join(str(artifact.seed) for artifact in there)
            wanted = "name a seed" if seed is None else f"no seed {seed}"
            raise UserError(f"{stage} of {condition}: {wanted} (there are {seeds})")
        return chosen[0]

    def _fetch(self, artifact: _Artifact, files: list[str] | None = None) -> Path:
        if self.store is None:
            raise UserError(
                f"{artifact.node}: its files are in the study's store: "
                "load_results(…, store=folder or URL)"
            )
        manifest = self.store.find(artifact.key)
        if manifest is None:
            raise UserError(f"{artifact.node}: not in {self.store.url} (any more)")
        if manifest.digest != artifact.digest:
            raise UserError(f"{artifact.node}: computed again since these results were made")
        if files and not set(files) <= set(manifest.files):
            there = ", ".join(sorted(manifest.files))
            raise UserError(f"{artifact.node}: no {files[0]} (there are {there})")
        return self.store.fetch(manifest, files)

    # --- figure ---------------------------------------------------------------------------------

    def hero(self, path: Path | str | None = None, style: Style | None = None) -> Figure:
        """The headline figure: leakage to bystanders, and collapse of persona space.

        Args:
            path: Saved there as well, in the format of its suffix.
            style: Colours, sizes and fonts; None: those of the report.

        Raises:
            UserError: Not a format of pictures.
        """
        return self.figure("hero", path, style)

    def figure(
        self, name: str, path: Path | str | None = None, style: Style | None = None
    ) -> Figure:
        """A figure in one's own style.

        Args:
            name: `hero`; `persona-plane` (arrows from base on its principal plane);
                `axis-positions` (personas along the assistant–EM axis); `cosine-matrices`;
                `leakage-geometry` (cosine with the source against the rate of the marker).
            path: Saved there as well, in the format of its suffix, with the digest of the study
                and the version in its metadata (PNG, SVG, PDF).
            style: Colours, sizes and fonts; None: those of the report.

        Raises:
            UserError: No such figure, nothing to draw, not a format of pictures, or a path that
                cannot be written to.
        """
        from personaspace.report.figures import draw_picture
        from personaspace.report.figures.style import metadata

        drawn = draw_picture(name, self.folder, self.results, style)
        if path is not None:
            known = drawn.canvas.get_supported_filetypes()
            if (suffix := Path(path).suffix.removeprefix(".").lower()) not in known:
                raise UserError(f"{path}: no format {suffix!r} (there are {', '.join(known)})")
            try:
                drawn.savefig(path, metadata=metadata(suffix, self.results.digest) or None)
            except OSError as error:
                raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
        return drawn


def load_results(
    where: Path | str, study: Study | Path | str | None = None, store: str | Path | None = None
) -> StudyResults:
    """A study's results, from a folder of results or from the study's store.

    Args:
        where: Folder that `run --out` or `report --out` wrote, or a store (folder or `s3://…`).
        study: The study (its file): says which results of a store are meant where it holds several.
        store: Where the artifacts are, if `where` is a folder of results.

    Raises:
        UserError: No results there, several and no study that says which, or malformed ones.
    """
    folder = Path(where)
    if "://" not in str(where) and (folder / RESULTS_FILE).is_file():
        return StudyResults(folder, None if store is None else open_store(str(store)))
    place = open_store(str(where))
    try:
        place.check(write=False)
        manifest = _named(place, study) if study is not None else _only(place)
        return StudyResults(place.fetch(manifest), place)
    except BaseException:
        place.close()
        raise


def _named(store: Store, study: Study | Path | str) -> Manifest:
    from personaspace.pipeline.node import Node
    from personaspace.pipeline.work import prepare
    from personaspace.study.load import load_study

    loaded = load_study(study) if isinstance(study, str | Path) else study
    manifest = prepare(loaded, store).manifest(Node("aggregate"))
    if manifest is None:
        raise UserError(f"{loaded.spec.name}: no results in {store.url} for this study")
    return manifest


def _only(store: Store) -> Manifest:
    keys = [key for key in store.list("aggregate") if key.count("/") == 1]
    if not keys:
        raise UserError(f"{store.url}: no results there; `personaspace run` makes them")
    if len(keys) > 1:
        raise UserError(
            f"{store.url}: {len(keys)} results (the study was changed): say which with "
            "study=the study's file"
        )
    manifest = store.find(keys[0])
    if manifest is None:
        raise StoreUnavailable(f"{store.url}: {keys[0]} is gone")
    return manifest
