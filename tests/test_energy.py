"""Energy of stages: counters of cards, what is shown to a process, and stages that share a card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.models import energy
from personaspace.models.energy import Meter, Use, seconds_in_use, taken
from personaspace.pipeline.runtime import device_name
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.stages.aggregate import PROVENANCE, SOME
from personaspace.report import provenance


class Cards:
    """The functions of `pynvml` that are used, over cards of our own: UUID and millijoules."""

    class NVMLError(Exception):
        """As the module's."""

    def __init__(self, counters: dict[str, int | None], *, driver: bool = True) -> None:
        self.counters, self.driver, self.open = counters, driver, 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.counters)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return list(self.counters)[index]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        counter = self.counters[handle]
        if counter is None:
            raise self.NVMLError("Not Supported")
        return counter


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cards]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = Cards({"GPU-aa": 1_000, "GPU-ab": 5_000, "GPU-old": None})
    yield found
    assert found.open == 0, "closed as often as opened"


def test_a_stages_energy_is_the_difference_of_each_cards_counter(cards: Cards) -> None:
    meter = Meter(cards)
    cards.counters |= {"GPU-aa": 3_500, "GPU-ab": 5_000}
    uses = [Use.model_validate(each) for each in meter.uses()]
    assert {use.card: use.joules for use in uses} == {"GPU-aa": 2.5, "GPU-ab": 0.0}
    assert all(use.began <= use.ended for use in uses)
    # A driver that was loaded again, and a card that is gone, tell nothing.
    cards.counters = {"GPU-aa": 10, "GPU-ab": 6_000}
    assert [each["card"] for each in meter.uses()] == ["GPU-ab"]


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        ("0", ["GPU-aa"]),
        ("1,0", ["GPU-ab", "GPU-aa"]),
        ("GPU-ab", ["GPU-ab"]),
        ("GPU-a", []),  # of two
        ("0,7,1", ["GPU-aa"]),  # CUDA stops there
        ("", []),
        ("-1", []),
        ("MIG-GPU-aa/1/0", []),
    ],
)
def test_cards_that_cuda_does_not_show_are_not_counted(
    shown: str, seen: list[str], cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert [each["card"] for each in Meter(cards).uses()] == seen


def test_where_there_is_no_card_nothing_is_said(
    finished_study: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Meter(Cards({"GPU-aa": 1}, driver=False)).uses() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Meter().uses() == [], "this machine's own NVML, if it has one"
    manifests = [
        json.loads(path.read_text()) for path in finished_study.store.rglob("manifest.json")
    ]
    told = json.loads((finished_study.out / "provenance.json").read_text())["artifacts"]
    import torch

    if not torch.cuda.is_available():
        assert manifests and not any("energy" in each["fields"] for each in manifests)
        assert told and not any("energy" in each for each in told)
        assert "energy" not in (finished_study.out / "report.html").read_text().lower()


@pytest.mark.slow
def test_what_runs_no_model_takes_no_gpu(
    cards: Cards, finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with a card, whatever it counts while statistics and report are made."""
    monkeypatch.setattr(energy, "_module", lambda: cards)
    spec, store = finished_study.spec, tmp_path / "store"
    only = ["--only", "train:benign", "--only", "report"]
    shutil.copytree(finished_study.store, store)
    for gone in (*store.glob("benign/*/train/*"), *store.glob("report/*")):
        shutil.rmtree(gone)
    done = CliRunner().invoke(app, ["run", str(spec), "--store", str(store), *only])
    assert done.exit_code == 0, done.output
    fields = {
        (told := json.loads(path.read_text())["fields"])["node"]: told
        for path in store.rglob("manifest.json")
    }
    assert {use["card"] for use in fields["train:benign:42"]["energy"]} == {"GPU-aa", "GPU-ab"}
    assert "energy" not in fields["report"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Card 9000")
    assert device_name() == "Card 9000" and device_name(uses_model=False).startswith("CPU, ")
    assert {name for name, stage in STAGES.items() if not stage.uses_model} == {
        "aggregate",
        "report",
        "publish",
    }


def use(card: str, began: float, ended: float, first: int, last: int) -> Use:
    return Use(card=card, began=began, ended=ended, first=first, last=last)


def test_what_a_card_took_while_two_stages_ran_counts_once() -> None:
    first, second = use("a", 0, 10, 0, 10_000), use("a", 5, 15, 5_000, 15_000)
    assert taken([first, second]) == taken([second, first]) == 15.0
    assert taken([first, use("b", 5, 15, 5_000, 15_000)]) == 20.0
    # The driver was loaded again: equal counters of another time.
    assert taken([first, use("a", 100, 110, 0, 10_000)]) == 20.0
    assert taken([]) == 0.0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=8))
def test_stages_of_a_card_take_what_it_counted_in_seconds_with_some_stage(
    spans: list[tuple[int, int]],
) -> None:
    """A card that takes 3 + n mod 5 J in second n, counted second by second."""
    counter = [0]
    for n in range(100):
        counter.append(counter[-1] + 1000 * (3 + n % 5))
    uses = [use("a", s, s + d, counter[s], counter[s + d]) for s, d in spans]
    busy = {n for s, d in spans for n in range(s, s + d)}
    assert taken(uses) == pytest.approx(sum(3 + n % 5 for n in busy))
    assert seconds_in_use(uses) == len(busy)
    elsewhere = [each.model_copy(update={"card": "b"}) for each in uses[:1]]
    assert seconds_in_use([*uses, *elsewhere]) == len(busy) + sum(d for _, d in spans[:1])


def test_stages_that_share_two_cards_for_eight_minutes_use_0_27_hours_of_cards() -> None:
    """As a run did: 10 stages beside each other on each, begun a second apart."""
    uses = [use(card, n, 471 + n, 0, 1) for card in ("a", "b") for n in range(10)]
    assert seconds_in_use(uses) / 3600 == pytest.approx(0.267, abs=0.001)


def test_the_report_tells_energy_beside_gpu_hours_and_that_stages_shared_a_card(
    tmp_path: Path,
) -> None:
    assert "energy" in SOME and "energy" not in PROVENANCE
    artifacts: list[dict[str, Any]] = [
        {
            "node": f"train:c{number}:42",
            "stage": "train",
            "device": "NVIDIA H200",
            "seconds": 1800.0,
            "created": "2026-11-30T00:30:00+00:00",
            "energy": [use("GPU-aa", 0, 1800, 0, 720_000_000).model_dump()],
        }
        for number in range(2)
    ]
    artifacts.append(artifacts[0] | {"node": "extract:c0:42", "stage": "extract", "energy": []})
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps({"artifacts": artifacts}))
    found = provenance.load(tmp_path)
    assert found is not None
    assert found.summary == (
        "3 artifacts made on NVIDIA H200; 30.0\u202fmin from the first start to the last end; "
        "1.5\u202fh if the times of all stages are added up. 1 GPU had stages to run for 0.50 "
        "GPU-hours in all (several stages on one GPU at the same time count once) and took 0.20 "
        "kWh. Of 1 artifact made on a GPU it is not known which GPU it was: their times add up to "
        "0.50 GPU-hours; a GPU that several shared is counted for each of them."
    )
    table = found.tables[0]
    assert "energy" in [column.title for column in table.columns]
    assert [row[3].text for row in table.rows] == ["0.50", "0.50"]
    assert [row[4].text for row in table.rows] == ["0.20 kWh", "–"]
    assert "added up one by one it would be 0.40 kWh" in (table.note or "")
    assert "1 artifact made on a GPU tells no energy" in (table.note or "")
    for each in artifacts:
        del each["energy"]
    path.write_text(json.dumps({"artifacts": artifacts}))
    found = provenance.load(tmp_path)
    assert found is not None and "kWh" not in found.summary + (found.tables[0].note or "")
    assert found.summary.endswith(
        "Of stages on GPUs it is not known which GPU it was: their times add up to 1.50 GPU-hours; "
        "a GPU that several shared is counted for each of them."
    )
    assert len(found.tables[0].columns) == 5


@pytest.mark.skipif("not __import__('torch').cuda.is_available()")
def test_a_real_card_counts_what_a_computation_takes() -> None:
    """About what its own power reading says, over two seconds of products."""
    import time

    import pynvml  # type: ignore[import-not-found, unused-ignore]
    import torch

    values = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    pynvml.nvmlInit()
    # NVML numbers all cards, whatever CUDA shows to this process.
    card = f"GPU-{torch.cuda.get_device_properties(values.device).uuid}"
    handle = pynvml.nvmlDeviceGetHandleByUUID(card)
    # The reading is a mean over the last second, so that a second of work must lie behind it.
    began = time.time()
    while time.time() - began < 2:
        for _ in range(20):
            values @ values
        torch.cuda.synchronize()
    meter, began, watts = Meter(), time.time(), []
    while time.time() - began < 2:
        for _ in range(20):
            values @ values
        torch.cuda.synchronize()
        watts.append(pynvml.nvmlDeviceGetPowerUsage(handle) / 1000)
    seconds = time.time() - began
    (mine,) = [Use.model_validate(u) for u in meter.uses() if u["card"] == card]
    mean = sum(watts) / len(watts)
    print(
        f"{mine.joules:.0f} J in {seconds:.2f} s, {mine.joules / seconds:.0f} W; read {mean:.0f} W"
    )
    assert mine.joules / seconds == pytest.approx(mean, rel=0.25)
