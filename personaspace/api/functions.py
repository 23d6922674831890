"""Studies from Python: load, run, and the parts on their own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace.api.results import StudyResults, load_results
from personaspace.api.tables import frame
from personaspace.errors import SpecErrors, UserError, one_line
from personaspace.study.load import load_study as _load_study
from personaspace.study.load import resolve
from personaspace.study.loaded import Study

if TYPE_CHECKING:
    import pandas as pd

    from personaspace.activations.files import ActivationFile
    from personaspace.analysis.power import Assumptions
    from personaspace.analysis.power.design import Plan


def load_study(source: Path | str | Mapping[str, Any], folder: Path | str = ".") -> Study:
    """A study, checked, with everything that it points to.

    Args:
        source: A file, or a study's fields as plain values.
        folder: Where relative paths start if `source` is no file.

    Raises:
        SpecErrors: Every mistake in the study and in what it points to.
        UserError: The file is missing or not YAML.
    """
    if isinstance(source, str | Path):
        return _load_study(source)
    from personaspace.study.validate import examine

    spec, problems = examine(dict(source))
    if spec is None:
        raise SpecErrors(problems)
    return resolve(spec, Path(folder).absolute(), problems)


def run(
    study: Study | Path | str,
    store: Path | str = "personaspace-store",
    *,
    only: Iterable[str] = (),
    with_inputs: bool = False,
    jobs: int = 1,
    out: Path | str | None = None,
    substitutes: Iterable[Path | str] = (),
) -> StudyResults | None:
    """Run a study on this machine; what is complete is not run again.

    Args:
        study: The study, or its file.
        store: Folder or `s3://…` of its artifacts.
        only: Only these stages: `train`, `train:e4-villain`, `train:e4-villain:42`.
        with_inputs: With `only`: what these need as well.
        jobs: Processes beside each other; more than one needs the study's file.
        out: Results, figures and report are copied there.
        substitutes: Stores that you trust: what they have is taken from there instead of computed.

    Returns:
        The results; None if `only` leaves them out.

    Raises:
        UserError: A mistake in the study, or a stage that failed because of one.
        RuntimeError: A stage failed for another reason; `__cause__` says which.
        Interrupted: Asked to stop (Ctrl-C, SIGTERM); another call goes on from there.
    """
    from personaspace.pipeline.local import export, run_study
    from personaspace.pipeline.node import Node
    from personaspace.store import open_store

    file = Path(study) if isinstance(study, str | Path) else None
    loaded = study if isinstance(study, Study) else _load_study(study)
    with open_store(str(store)) as place:
        work, summary = run_study(
            loaded,
            place,
            only=list(only),
            with_inputs=with_inputs,
            jobs=jobs,
            file=file,
            substitutes=[str(url) for url in substitutes],
        )
        for node, error in summary.failed.items():
            if summary.computed:  # the results are there, though not all were told of them
                warnings.warn(
                    f"{node.id}: {one_line(error)}; another run tries again", stacklevel=2
                )
            elif isinstance(error, UserError):
                raise error
            else:
                raise RuntimeError(f"{node.id} failed") from error
        if work.manifest(Node("aggregate")) is None:
            return None
        if out is not None:
            export(work, Path(out), report=work.manifest(Node("report")) is not None)
    return load_results(str(store), loaded)


def eval_logs(
    study: Study | Path | str,
    store: Path | str = "personaspace-store",
    out: Path | str = "eval-logs",
) -> list[Path]:
    """Write a study's answers, scores and verdicts as logs that `inspect view` opens.

    Args:
        study: The study, or its file.
        store: Where its artifacts are.
        out: Folder for the logs, one for each condition, seed and task.

    Returns:
        The logs of what is complete.

    Raises:
        UserError: No answers are complete, or the folder holds logs of something else.
    """
    from personaspace.pipeline.eval_logs import write_logs
    from personaspace.pipeline.work import prepare
    from personaspace.store import open_store

    loaded = study if isinstance(study, Study) else _load_study(study)
    with open_store(str(store)) as place:
        written, _ = write_logs(prepare(loaded, place), Path(out))
    return [log.path for log in written]


def read_activations(path: Path | str) -> ActivationFile:
    """An activation file; its hidden states stay on disk until `read_layer` is called.

    Raises:
        UserError: Missing or malformed; the message names the file.
    """
    from personaspace.activations.files import open_activations

    return open_activations(path)


def geometry(
    files: Path | str | Sequence[Path | str],
    *,
    base: str = "base",
    axis: str | None = None,
    assistant: str | None = None,
    benign: str | None = None,
    permutations: int = 10_000,
    bootstrap: int = 2_000,
    seed: int = 42,
    jobs: int = 0,
) -> pd.DataFrame:
    """M1, M2 and M3 of activation files, as the table of `StudyResults.rows()`.

    Args:
        files: A folder of `<condition>.seed-<n>.<a|b>.safetensors`, or such files.
        base: Condition the others are compared with.
        axis: Condition that defines M2's axis; None: e0-assistant.
        assistant: Persona whose shift is the axis; None: assistant.
        benign: Condition fine-tuned on harmless data; None: benign, if there is one.
        permutations: Draws of every permutation test.
        bootstrap: Draws of the published bootstrap interval.
        seed: Of all random draws.
        jobs: Processes; 0: one a core, while memory lasts.

    Returns:
        The rows; `attrs["notes"]` says what was left out, and why.

    Raises:
        UserError: Malformed files, or a condition or persona that is not there.
    """
    from personaspace.activations.files import named_activations
    from personaspace.analysis.geometry import analyse_geometry

    if isinstance(files, str | Path):
        paths, notes = named_activations(files)
    else:
        paths, notes = [Path(path) for path in files], []
    found = analyse_geometry(
        paths,
        base=base,
        axis=axis,
        assistant=assistant,
        benign=benign,
        permutations=permutations,
        bootstrap=bootstrap,
        seed=seed,
        processes=jobs or None,
    )
    table = frame(found.rows, base)
    table.attrs["notes"] = [*notes, *found.notes]
    return table


def score(answers: Mapping[str, Mapping[str, Sequence[str]]], marker: str) -> dict[str, Any]:
    """Which answers carry the marker, by persona and question.

    Args:
        answers: `{persona: {question: [answers]}}`.
        marker: Text that is looked for, in upper or lower case.

    Raises:
        UserError: The marker is empty.
    """
    from personaspace.behaviour.marker import score_answers

    return score_answers(answers, marker)


def leakage(
    scores: Mapping[tuple[str, int], Mapping[str, Any]], study: Study, **draws: int
) -> pd.DataFrame:
    """H1, H2 and H3 of scores, as the table of `StudyResults.rows()`.

    Args:
        scores: Output of `score` by condition and training seed.
        study: Says which personas and conditions play which part, and which questions are unseen.
        draws: `permutations`, `bootstrap`, `seed`; None given: the study's.

    Raises:
        UserError: Scores of a condition that the study lacks, or malformed ones.
    """
    from personaspace.pipeline.design import leakage_of

    return frame(leakage_of(study.spec, scores, study.unseen, draws))


def power(study: Study, assumptions: Assumptions | None = None) -> Plan:
    """Which effects a study could detect, before it runs.

    Args:
        study: Its conditions, personas, questions, samples and seeds count.
        assumptions: Rates and deviations to expect; None: those of the published study.
    """
    from personaspace.analysis.power import Assumptions
    from personaspace.pipeline.design import planned

    return planned(study.spec, study.folder, assumptions or Assumptions())
