"""steer: what a direction causes, added to the model's hidden states or taken out of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from personaspace.pipeline.arms import arms_of, section
from personaspace.pipeline.context import Context, write_json
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Need, Scope, Stage, model_read, personas_read
from personaspace.study.loaded import Study

STEERING = "steering.json"
#: What of the section decides a result by itself; the rest is told in another form, or chooses.
_SETTINGS = {
    *("vectors", "modes", "doses", "controls", "activation_controls", "answered_controls"),
    *("answer_tokens", "max_new_tokens"),
}


def _reads(study: Study, node: Node) -> dict[str, Any]:
    spec, steering, inputs = study.spec, section(study), study.steering
    assert inputs is not None
    return {
        "settings": steering.model_dump(include=_SETTINGS),
        "layer": [steering.layer, spec.analysis.layer],
        "method": spec.analysis.method,
        "assistant": personas_read(study, [spec.analysis.assistant]),
        "questions": list(inputs.questions),
        "pairs": [list(asdict(pair).values()) for pair in inputs.pairs],
        "condition": node.condition,
        "model": model_read(study),
        "seed": node.seed,
    }


def run(context: Context) -> None:
    """Writes `steering.json`.

    `arms` has, of each direction and dose (of none: the untouched model), mean log-probabilities
    of the pairs' bad and good answers, nats per token, in the order of `pairs`; and of those that
    answer, in the order of `questions`: the greedy answers, which of them are degenerate, and
    their −log p under the untouched model, nats per token.
    """
    from personaspace.pipeline import steering

    arms = list(arms_of(section(context.study), context.condition.fine_tuned))
    vectors = steering.vectors_of(context)
    context.progress.start("steered models", len(arms))
    measured = steering.measured(context, arms, vectors)
    inputs = context.study.steering
    assert inputs is not None
    write_json(
        context.out / STEERING,
        {
            "layer": vectors.layer,
            "method": context.spec.analysis.method,
            "typical_length": vectors.typical_length,
            "lengths": vectors.lengths,
            "questions": list(inputs.questions),
            "pairs": [{"question": pair.question, "topic": pair.topic} for pair in inputs.pairs],
            "trained_on": steering.trained_on(context),
            "arms": [asdict(arm) | measured[arm.id] for arm in arms],
        },
    )
    context.metrics.update(arms=len(arms))


STAGE = Stage(
    name="steer",
    version=1,
    scope=Scope.CONDITION,
    needs=(Need("train"), Need("extract"), Need("couple", order="before")),
    reads=_reads,
    run=run,
    untrained_once=True,
    wanted=lambda spec: spec.steering is not None,
    chosen=lambda spec, condition, seed: spec.steers(condition, seed),
    spec_paths={
        "settings": "steering",
        "layer": "steering.layer",
        "method": "analysis.method",
        "assistant": "analysis.assistant",
        "questions": "steering.questions",
        "pairs": "steering.bad",
    },
)
