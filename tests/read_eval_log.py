"""What Inspect's own library finds in a log; run where it is installed (`make test-inspect`)."""

from __future__ import annotations

import json
import sys
from typing import Any

# Not where these tests are checked: it does not go together with what they need.
from inspect_ai.log import (  # type: ignore[import-not-found, unused-ignore]
    list_eval_logs,
    read_eval_log,
    read_eval_log_sample,
    read_eval_log_sample_summaries,
)


def told(path: str) -> dict[str, Any]:
    log = read_eval_log(path)
    header = read_eval_log(path, header_only=True)
    assert header.results == log.results
    short = read_eval_log_sample_summaries(path)
    first = log.samples[0]
    alone = read_eval_log_sample(path, id=first.id, epoch=first.epoch)
    assert alone.model_dump() == first.model_dump()
    return {
        "status": log.status,
        "task": log.eval.task,
        "model": log.eval.model,
        "epochs": log.eval.config.epochs,
        "temperature": log.eval.model_generate_config.temperature,
        "metadata": log.eval.metadata,
        "means": {
            score.name: {name: metric.value for name, metric in score.metrics.items()}
            for score in log.results.scores
        },
        "unscored": {score.name: score.unscored_samples for score in log.results.scores},
        "summaries": [[each.id, each.epoch, each.input] for each in short],
        "samples": [
            {
                "id": each.id,
                "epoch": each.epoch,
                "input": each.input,
                "messages": [[message.role, message.text] for message in each.messages],
                "completion": each.output.completion,
                "stop": each.output.stop_reason,
                "scores": {name: score.value for name, score in each.scores.items()},
                "explained": {name: score.explanation for name, score in each.scores.items()},
                "metadata": each.metadata,
            }
            for each in log.samples
        ],
    }


if __name__ == "__main__":
    listed = [info.name for info in list_eval_logs(sys.argv[1])]
    print(json.dumps({path.rsplit("/", 1)[1]: told(path) for path in listed}))
