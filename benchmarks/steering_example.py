"""Steering on the built-in model: the example study, harmful and harmless shift side by side.

python -m benchmarks.steering_example --store steering/store

Runs examples/steering.yaml (or `--spec`), and prints the rows of its doses as JSON. What the store
has is not computed again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

import personaspace
from personaspace.analysis.steering_rows import SteeringMeasure

EXAMPLE = Path(__file__).parents[1] / "examples" / "steering.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--spec", type=Path, default=EXAMPLE)
    options = parser.parse_args()
    stages = ["steer", "aggregate", "report"]
    study = personaspace.load_study(options.spec)
    store = str(options.store)
    personaspace.run(study, store, only=stages[:1], with_inputs=True)
    with tempfile.TemporaryDirectory() as out:
        found = personaspace.run(study, store, only=stages[1:], out=out)
        assert found is not None
        rows = [
            row.model_dump(mode="json", exclude_none=True)
            for row in found.results.steering
            if row.measure in (SteeringMeasure.ADVICE, SteeringMeasure.GOOD)
        ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(json.dumps({"study": study.spec.name, "device": device, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
