"""The demo's study, on its real model: disturbed runs must end with the undisturbed run's results.

Minutes long, so not part of `make test`; `make test-demo` runs it:

    make test-demo
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from seaweed import SeaweedS3

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo.yaml"
KILLS = 10

pytestmark = pytest.mark.timeout(3600)


def personaspace(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "personaspace", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def complete(store: object, **variables: str) -> dict[str, Any]:
    """Run the demo to its end; its results."""
    outcome = personaspace("run", DEMO, "--store", store, **variables)
    assert outcome.returncode == 0, outcome.stderr
    shown = personaspace("results", DEMO, "--store", store, "--json", **variables)
    assert shown.returncode == 0, shown.stderr
    results: dict[str, Any] = json.loads(shown.stdout)
    return results


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of `make demo`, which has run before or runs now in a store of its own."""
    kept = ROOT / "demo" / "store"
    return complete(kept if kept.exists() else tmp_path_factory.mktemp("demo") / "store")


def test_ten_kills_change_no_result(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    store, chance = tmp_path / "store", random.Random(205)
    moments: list[str] = []
    while len(moments) < KILLS:
        process = subprocess.Popen(
            [sys.executable, "-m", "personaspace", "run", str(DEMO), "--store", str(store)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        # Moments spread over the whole study: each run may finish a stage or two before it dies.
        started = chance.choice((1, 2, 3))
        assert process.stderr is not None
        for line in process.stderr:
            started -= "started" in line
            if not started:
                break
        time.sleep(chance.uniform(0.1, 8.0))
        assert process.poll() is None, f"ended after {len(moments)} kills: too few to say anything"
        process.send_signal(signal.SIGKILL)
        _, rest = process.communicate()
        moments.append((line + rest).strip().splitlines()[-1])
    print("killed at:", *moments, sep="\n  ")
    assert complete(store) == undisturbed
    assert [path for path in store.rglob("*") if "checkpoints" in path.parts] == []


def test_s3_gives_the_results_of_a_folder(
    undisturbed: dict[str, Any], s3_server: SeaweedS3
) -> None:
    assert complete(s3_server.url("demo"), **s3_server.environment) == undisturbed
