"""What a stage is: one object, in the stage's own file, that says all the pipeline must know of it.

Graph, fingerprints, executor and entrypoints read these objects (`personaspace.pipeline.stages`
lists them) and know no stage by name. Nothing here imports a library that computes: a process that
only wants the graph never waits for torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from personaspace.pipeline.node import Node

if TYPE_CHECKING:
    from personaspace.pipeline.context import Context
    from personaspace.study.fields import Order
    from personaspace.study.inputs import Condition
    from personaspace.study.loaded import Study
    from personaspace.study.recipe import Recipe
    from personaspace.study.spec import Experiment


class Scope(StrEnum):
    """What one run of a stage is for."""

    CONDITION = "condition"  # one condition under one seed
    STUDY = "study"  # all of them


@dataclass(frozen=True)
class Need:
    """A stage whose artifacts another stage reads.

    Attributes:
        stage: Its name. A stage of a condition needs it of the same condition and seed, one of the
            study needs all there are.
        files: The files that are fetched; None: all of the artifact.
        order: It is needed where the marker is coupled in this order alone; None: in either.
    """

    stage: str
    files: tuple[str, ...] | None = None
    order: Order | None = None


def _never(_: Study) -> bool:
    return False


def _own(_: Experiment) -> bool:
    return False


def _always(_: Experiment) -> bool:
    return True


def _each(_: Experiment, __: Condition, ___: int) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """A stage: what it is made from, what it computes, and where it stands in the graph.

    Attributes:
        name: Its name, in lower case; also that of its module and of its command in `jobs`.
        version: Raised when the stage computes something else from the same inputs.
        scope: Whether it runs for each condition and seed, or once for the study.
        needs: Its inputs. One that a condition does not have (base is not trained) is left out.
        reads: All of the study that can change the result, as JSON: a field that is not in it
            cannot make the stage run again.
        run: Computes, and writes into the context's folder. Imports what is heavy itself.
        trained_only: It runs for the conditions with a data set or an adapter alone.
        of_base: Whether it runs for the base condition alone, once per seed, and its artifact
            serves all conditions of that seed.
        of_whole: Files that a dose's run fetches of the same stage's run of the whole training,
            after which it comes; None: it does not need that one.
        untrained_once: Of a condition without either it runs under its first seed alone, since
            nothing that it reads depends on a seed, unless something it needs does.
        wanted: Whether the study has the stage at all.
        chosen: Whether it runs for a condition and seed, where the study has the stage.
        draws_answers: Whether it draws answers from the model.
        longest_answer: The most tokens that an answer drawn by it can have; 0: not in this study,
            None: it draws none.
        tolerates_loss: Whether it may run when some, but not all, of its inputs are missing.
        breakable: It keeps nothing on the way and does not look whether it is asked to stop, so
            a signal breaks it off where it is.
        outward: Whether it tells others of the study and computes nothing: it runs in a Job of its
            own, which alone has the token for it, and its failure takes no result away.
        tracked: Files of its artifact that experiment trackers keep.
        rows: Names in what it reads of lists of personas, each of whom has a row for each of its
            `questions`: what a former artifact has of these is taken from there; none: all is
            computed.
        spec_paths: Where in the spec stands what it reads under a name of its own; `{dataset}` and
            `{persona}` are those of the node's condition.
    """

    name: str
    version: int
    scope: Scope
    needs: tuple[Need, ...]
    reads: Callable[[Study, Node], dict[str, Any]]
    run: Callable[[Context], None]
    trained_only: bool = False
    of_base: Callable[[Experiment], bool] = _own
    of_whole: tuple[str, ...] | None = None
    untrained_once: bool = False
    wanted: Callable[[Experiment], bool] = _always
    chosen: Callable[[Experiment, Condition, int], bool] = _each
    draws_answers: Callable[[Study], bool] = _never
    longest_answer: Callable[[Experiment], int] | None = None
    tolerates_loss: Callable[[Study], bool] = _never
    breakable: bool = False
    outward: bool = False
    tracked: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    spec_paths: Mapping[str, str] = field(default_factory=dict)

    @property
    def uses_model(self) -> bool:
        """Whether it runs on the model's device; what is of the whole study only reads files."""
        return self.scope is Scope.CONDITION

    def node(self, spec: Experiment, condition: Condition, seed: int) -> Node | None:
        """The run that serves a condition and seed; None if there is none.

        Raises:
            ValueError: It is a stage of the whole study.
        """
        if self.scope is not Scope.CONDITION:
            raise ValueError(f"{self.name} is a stage of the whole study")
        if not self.wanted(spec):
            return None
        if self.of_base(spec):
            condition = spec.base_condition()
        if condition.whole is not None and self.name not in spec.dose_stages():
            return None
        if not condition.fine_tuned:
            if self.trained_only:
                return None
            if self.untrained_once and spec.coupling.order not in {n.order for n in self.needs}:
                seed = spec.seeds_of(condition)[0]
        if not self.chosen(spec, condition, seed):
            return None
        return Node(self.name, condition.name, seed)

    def needs_of(self, spec: Experiment) -> list[Need]:
        """What it needs in this study."""
        return [need for need in self.needs if need.order in (None, spec.coupling.order)]

    def input_files(self, stage: str) -> tuple[str, ...] | None:
        """Names of the files that it fetches of an input of that stage; None: all.

        Raises:
            KeyError: It does not need that stage.
        """
        if stage == self.name and self.of_whole is not None:
            return self.of_whole
        return {need.stage: need.files for need in self.needs}[stage]


# --- what several stages read of a study ---------------------------------------------------------


def personas_read(study: Study, names: Iterable[str]) -> list[list[Any]]:
    """Name and system prompt (or list of wordings) of each of these personas."""
    return [study.spec.persona(name).identity() for name in names]


def recipe_read(recipe: Recipe) -> dict[str, Any]:
    """A recipe without what does not change what is learned.

    How often a checkpoint is written does not, nor what is kept on the way, nor which code
    computes, up to rounding, nor how rows are filled: that counts as left out, as it is by default,
    so that studies stored before stay complete.
    """
    from personaspace.study.recipe import Learning

    read = recipe.model_dump(include=set(Learning.model_fields) - recipe.unused())
    return read | {"row_tokens": None} | recipe.known_as()


def model_read(study: Study) -> list[Any]:
    """The base model's weights and precision, and how chats are put to it."""
    model = study.spec.model
    chosen = model.model_dump(mode="json", include=set(model.later - model.unused()))
    return [study.model_identity, model.dtype, *([chosen] if chosen else [])]
