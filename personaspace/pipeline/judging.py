"""The study's judge: checked before anything costs time, then made ready to be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from personaspace.behaviour.judge.asking import Ask, Aspect, JudgeModel
from personaspace.behaviour.judge.verdicts import Asked, Verdicts
from personaspace.errors import UserError
from personaspace.pipeline.lent import Models
from personaspace.store import Store
from personaspace.study import base_model
from personaspace.study.base_model import ModelError
from personaspace.study.loaded import Study
from personaspace.study.spec import Experiment

FIELD = "judge.model"


def gold_asks(study: Study) -> list[Ask]:
    """Both questions about each answer of the gold set."""
    assert study.gold is not None
    return [
        Ask(aspect, entry.question, entry.answer)
        for entry in study.gold.answers
        for aspect in Aspect
    ]


def verdicts_of(study: Study, store: Store) -> Verdicts:
    """What the study's judge has said before."""
    assert study.spec.judge is not None
    return Verdicts(store, study.judge_identity, study.spec.judge.model)


def check(study: Study, store: Store) -> Asked:
    """Find out whether the judge can be asked, in seconds.

    A server is asked a question of the gold set, unless it has answered any before. Of a local
    judge the tokenizer is read.

    Raises:
        UserError: Key, address, name or number tokens are wrong.
        UnavailableError: The server is away, too slow or limits us.
    """
    judge = study.spec.judge
    assert judge is not None
    if judge.url is None:
        _check_local(study.spec, ask=True)
        return Asked()
    from personaspace.behaviour.judge.endpoint import Endpoint

    endpoint = Endpoint(judge)
    try:
        verdicts = verdicts_of(study, store)
        if verdicts.load():
            return Asked()
        return verdicts.ask(lambda: endpoint, gold_asks(study)[:1])[1]
    finally:
        endpoint.close()


def check_here(spec: Experiment) -> None:
    """What can be said of the judge without asking it or anybody else.

    Raises:
        UserError: A local judge on this machine has no number tokens or no chat template, or no GPU
            of the study's holds it.
    """
    model = None if spec.judge is None else spec.judge.local_model()
    with _named():
        if model is not None and base_model.can_be_inspected(model):
            _check_local(spec)


def check_unasked(spec: Experiment) -> None:
    """The same where it may be fetched from the hub, but no server is asked."""
    if spec.judge is not None and spec.judge.url is None:
        _check_local(spec, ask=True)


@contextmanager
def _named() -> Iterator[None]:
    """What is wrong with a model is wrong with the judge's."""
    try:
        yield
    except ModelError as error:
        raise UserError(f"{FIELD}: {error.reason}") from None


def _check_local(spec: Experiment, *, ask: bool = False) -> None:
    from personaspace.behaviour.judge.numbers import number_tokens
    from personaspace.models.load import load_tokenizer
    from personaspace.models.preflight import judge_memory

    assert spec.judge is not None
    model = spec.judge.local_model()
    assert model is not None
    with _named():
        number_tokens(load_tokenizer(model, FIELD), FIELD)
        judge_memory(spec, ask=ask)


@contextmanager
def opened(study: Study, runtime: Models) -> Iterator[Callable[[], JudgeModel]]:
    """Gives what makes the judge ready at its first call, and frees it in the end."""
    made: list[JudgeModel] = []

    def ready() -> JudgeModel:
        if not made:
            made.append(_open(study, runtime))
        return made[0]

    try:
        yield ready
    finally:
        for judge in made:
            judge.close()


def _open(study: Study, runtime: Models) -> JudgeModel:
    judge = study.spec.judge
    assert judge is not None
    model = judge.local_model()
    if model is None:
        from personaspace.behaviour.judge.endpoint import Endpoint

        return Endpoint(judge)
    from personaspace.behaviour.judge.local import LocalJudge
    from personaspace.models.load import load_model, load_tokenizer
    from personaspace.models.rendering import rendering_of

    if study.judge_identity == ["local", study.model_identity, study.spec.model.dtype]:
        return LocalJudge(runtime.model, runtime.tokenizer, runtime.prompted.how)
    runtime.make_way()
    with _named():
        tokenizer = load_tokenizer(model, FIELD)
        # Its template is told the study's day; other arguments are those of the study's model.
        spec = model.model_copy(update={"date": study.spec.model.date})
        how = rendering_of(spec, tokenizer)
        return LocalJudge(load_model(model, FIELD), tokenizer, how)
