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
from personaspace.study.inputs import Model
from personaspace.study.judging import Judge
from personaspace.study.loaded import Study

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
        _check_local(judge)
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


def check_here(judge: Judge) -> None:
    """What can be said of the judge without asking it or anybody else.

    Raises:
        UserError: A local judge on this machine has no number tokens or no chat template.
    """
    with _named():
        if judge.url is None and base_model.local_folder(_model(judge)) is not None:
            _check_local(judge)


def _model(judge: Judge) -> Model:
    return Model(name=judge.model, revision=judge.revision, dtype=judge.dtype)


@contextmanager
def _named() -> Iterator[None]:
    """What is wrong with a model is wrong with the judge's."""
    try:
        yield
    except ModelError as error:
        raise UserError(f"{FIELD}: {error.reason}") from None


def _check_local(judge: Judge) -> None:
    from personaspace.behaviour.judge.numbers import number_tokens
    from personaspace.models.load import load_tokenizer

    with _named():
        number_tokens(load_tokenizer(_model(judge), FIELD), FIELD)


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
    if judge.url is not None:
        from personaspace.behaviour.judge.endpoint import Endpoint

        return Endpoint(judge)
    from personaspace.behaviour.judge.local import LocalJudge
    from personaspace.models.load import load_model, load_tokenizer
    from personaspace.models.rendering import rendering_of

    if study.judge_identity == ["local", study.model_identity, study.spec.model.dtype]:
        return LocalJudge(runtime.model, runtime.tokenizer, runtime.prompted.how)
    runtime.make_way()
    with _named():
        tokenizer = load_tokenizer(_model(judge), FIELD)
        # Its template is told the study's day; other arguments are those of the study's model.
        spec = _model(judge).model_copy(update={"date": study.spec.model.date})
        how = rendering_of(spec, tokenizer)
        return LocalJudge(load_model(_model(judge), FIELD), tokenizer, how)
