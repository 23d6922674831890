"""Models larger than a card, on several GPUs of one host: speed, memory, and the same results.

    python -m benchmarks.sharded --out result.json             # all parts, all GPUs
    python -m benchmarks.sharded --parts whole sharded         # 32B on one card, then spread
    python -m benchmarks.sharded --parts large --seconds 200   # 70B, spread
    python -m benchmarks.sharded --processes 2                 # tiny, on a CPU, to try it

Parts, each in processes of its own and within a time of its own, so that one that fails loses no
other: `whole`, the shape of Qwen2.5-32B unsharded on one card; `sharded`, the same over all cards,
compared with it; `stopped`, the same told to stop by SIGTERM half-way, and gone on with, compared
with that; `large`, that of Llama-3.3-70B over all cards; `parallel`, `benchmarks.parallel` at
Qwen2.5-7B's shape. Weights are random and made on the cards, each process its own rows, the same
however many there are. A step has 16 examples of about 200 + 200 tokens; the clock runs from the
end of the step `--warm`. Dropout is off, so that runs learn alike.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import common
from benchmarks.shapes import SHAPES
from personaspace import interrupt
from personaspace.activations import spread
from personaspace.activations.extract import Passage, States, hidden_states
from personaspace.errors import Interrupted
from personaspace.models import sharding
from personaspace.models.team import Team, gpus, leading
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
from personaspace.training import data_parallel
from personaspace.training.checkpoints import Checkpoints
from personaspace.training.trainer import StepLog

#: Shape of each part and seconds that it may take.
PARTS = {
    "whole": ("Qwen2.5-32B", 130),
    "sharded": ("Qwen2.5-32B", 130),
    "stopped": ("Qwen2.5-32B", 130),
    "large": ("Llama-3.3-70B", 130),
    "parallel": ("Qwen2.5-7B", 180),
}
#: Which part another is compared with.
AGAINST = {"sharded": "whole", "stopped": "sharded"}


@dataclass(frozen=True)
class Work:
    """What every process of a part is told.

    Attributes:
        shape: In `shapes`.
        warm: Steps before the clock.
        steps: Steps that it measures.
        texts: Passages whose hidden states are taken; 0: none.
        folder: Where processes leave what they measured.
        changed: Fields of the shape that differ.
        checkpoint: Training goes on from there.
        stop: After so many steps the first process gets SIGTERM; 0: never.
    """

    shape: str
    warm: int
    steps: int
    texts: int
    folder: Path
    changed: dict[str, int]
    checkpoint: Path | None = None
    stop: int = 0


def fill_by_name(model: Any, device: torch.device) -> sharding.Fill:
    """Random weights that depend on a parameter's name alone, in whatever parts they are made."""
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def fill(name: str, to: torch.Tensor, start: int) -> None:
        if to.ndim == 1:
            to.fill_(0.0 if name.endswith("bias") else 1.0)
            return
        draw = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
        whole = torch.empty(shapes[name], dtype=to.dtype, device=device)
        whole.normal_(0.0, 0.02, generator=draw)
        to.copy_(whole[start : start + len(to)])

    return fill


def skeleton(work: Work) -> Any:
    """The shape without memory for its weights."""
    from transformers import AutoConfig

    kind, sizes = SHAPES[work.shape]
    config = AutoConfig.for_model(kind, **{**sizes, **work.changed})
    on_gpu = torch.cuda.is_available()
    return sharding.skeleton(config, torch.bfloat16 if on_gpu else torch.float32)


def whole(work: Work) -> Any:
    """All of the model on one device."""
    made, device = skeleton(work), common.device()
    fill = fill_by_name(made, device)
    for name, former in list(made.named_parameters()):
        module, _, own = name.rpartition(".")
        weight = torch.empty(former.shape, dtype=former.dtype, device=device)
        fill(name, weight, 0)
        setattr(made.get_submodule(module), own, nn.Parameter(weight, requires_grad=False))
    return made.to(device)


def part_of(work: Work, team: Team) -> Any:
    """This process's part of the model."""
    team.assemble()
    made = skeleton(work)
    return sharding.sharded(made, team.mesh(), team.device, fill_by_name(made, team.device))


def job(work: Work, vocabulary: int, sharded: bool) -> data_parallel.Job:
    """The training, the same for one process and for several."""
    return data_parallel.Job(
        model=Model(name=work.shape),
        examples=common.chats(16 * (work.warm + work.steps), vocabulary),
        recipe=Recipe(dropout=0.0, checkpoint_every=10**6, implementation="reference"),
        over=None,
        adapter_seed=3,
        run_seed=7,
        field="training",
        checkpoint=work.checkpoint,
        sharded=sharded,
    )


def passages(work: Work, vocabulary: int) -> list[Passage]:
    """Prompts of about 100 tokens with answers of about 60."""
    made = common.chats(work.texts, vocabulary, 100, seed=5, answer=60)
    return [Passage(e.ids[: e.loss.index(True)], e.ids[e.loss.index(True) :]) for e in made]


def train(work: Work, base: Any, team: Team | None) -> dict[str, Any]:
    """One training's figures, of this process."""
    made = job(work, base.config.vocab_size, team is not None)
    ends: list[float] = []

    def advance(entry: StepLog) -> None:
        ends.append(time.perf_counter())
        if entry.step == work.stop:
            os.kill(os.getpid(), signal.SIGTERM)

    def save(step: int, write: Callable[[Path], None]) -> None:
        kept = work.folder / f"step-{step}"
        kept.mkdir()
        write(kept)

    first = team is None or team.rank == 0
    kept = Checkpoints(load=lambda: work.checkpoint, save=save if first else None)
    with data_parallel.adapter(made, base) as model:
        common.wait()
        trainer = data_parallel.trainer(made, model, team)
        plan: Any = getattr(trainer.engine, "engine", trainer.engine)
        log = trainer.run(kept if work.stop or work.checkpoint else None, advance)
        seconds = ends[-1] - ends[work.warm - 1]
    return {
        "tokens/s": sum(entry.tokens for entry in log[work.warm :]) / seconds,
        "s/step": seconds / work.steps,
        "row tokens": plan.plan.row_tokens,
        "layers recomputed": plan.plan.checkpointed,
        "peak GiB in training": common.peak_gib(),
        "losses": [entry.loss for entry in log],
        "gradient norms": [entry.gradient_norm for entry in log],
    }


def extract(work: Work, base: Any, team: Team | None) -> tuple[dict[str, Any], States]:
    """Hidden states of three layers, and what they took."""
    layers = int(base.config.num_hidden_layers)
    chosen = sorted({layers // 4, layers // 2, layers - 1})
    texts = passages(work, base.config.vocab_size)
    reading = spread.Reading(Model(name=work.shape), [], texts, chosen)

    def read() -> States:
        if team is None:
            return hidden_states(base, texts, chosen, wanted="reference")
        return spread.of_team(base, reading, team, work.folder)

    read()  # warm
    common.peak_gib()
    began = time.perf_counter()
    states = read()
    seconds = time.perf_counter() - began
    peak = common.peak_gib()
    return {"prompts/s": len(texts) / seconds, "peak GiB in extraction": peak}, states


def measure(work: Work, team: Team | None) -> None:
    """This process's whole part; leaves its figures and, the first, the states."""
    rank = 0 if team is None else team.rank
    began = time.perf_counter()
    base = whole(work) if team is None else part_of(work, team)
    common.wait()
    facts: dict[str, Any] = {"s to make the weights": time.perf_counter() - began}
    if torch.cuda.is_available():
        facts["GiB of weights"] = torch.cuda.memory_allocated() / 2**30
    keep(work, rank, facts)
    facts |= train(work, base, team)
    keep(work, rank, facts)
    if work.texts:
        found, states = extract(work, base, team)
        keep(work, rank, facts | found)
        if rank == 0:
            np.savez(work.folder / "states.npz", last=states.last_NLH, mean=states.mean_NLH)


def keep(work: Work, rank: int, facts: dict[str, Any]) -> None:
    """Leave what is known so far."""
    (work.folder / f"rank-{rank}.json").write_text(json.dumps(facts), encoding="utf-8")


def run_part(work: Work, devices: list[str]) -> None:
    """One part, in this process and those that it starts."""
    if len(devices) == 1:
        measure(work, None)
        return
    with leading(_follow, work, devices, "the benchmark") as team:
        assert team is not None
        measure(work, team)


def _follow(work: Work, team: Team) -> None:
    measure(work, team)


def stopped(work: Work, devices: list[str]) -> None:
    """A training that SIGTERM stops half-way, and another that goes on from its checkpoint."""
    began = time.perf_counter()
    with interrupt.caught():
        try:
            run_part(replace(work, texts=0, stop=(work.warm + work.steps) // 2), devices)
        except Interrupted:
            interrupt.reset()
        else:
            raise SystemExit("SIGTERM did not stop the training")
    (latest,) = work.folder.glob("step-*")
    facts = {"stopped after": latest.name, "s until then": time.perf_counter() - began}
    run_part(replace(work, texts=0, checkpoint=latest), devices)
    (work.folder / "stop.json").write_text(json.dumps(facts), encoding="utf-8")


# --- all parts -----------------------------------------------------------------------------------


def bounded(command: list[str], seconds: float, log: Path) -> dict[str, Any]:
    """Run a command and all that it starts for at most so long; how it ended."""
    began = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ended: int | str = process.wait(seconds)
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    facts: dict[str, Any] = {"ended": ended, "seconds": time.perf_counter() - began}
    if ended != 0:
        facts["log"] = log.read_text(encoding="utf-8")[-3000:]
    return facts


def figures(folder: Path) -> list[dict[str, Any]]:
    """What the processes of a part left, by rank."""
    paths = sorted(folder.glob("rank-*.json"), key=lambda p: int(p.stem.split("-")[1]))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def compared(one: Path, several: Path) -> dict[str, Any]:
    """How far the sharded run is from the whole one."""
    found: dict[str, Any] = {}
    left, right = figures(one), figures(several)
    if left and right:
        for name in ("losses", "gradient norms"):
            pairs = list(zip(right[0].get(name, []), left[0].get(name, []), strict=False))
            if pairs:
                found[f"{name}: largest relative difference"] = max(
                    abs(a / b - 1) for a, b in pairs
                )
    if (one / "states.npz").exists() and (several / "states.npz").exists():
        with np.load(one / "states.npz") as a, np.load(several / "states.npz") as b:
            for name in ("last", "mean"):
                x, y = a[name].astype(np.float64), b[name].astype(np.float64)
                gap = np.linalg.norm(x - y, axis=-1) / np.linalg.norm(x, axis=-1)
                cosines = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
                found[f"{name}: largest gap as a share of the norm"] = float(gap.max())
                found[f"{name}: smallest cosine"] = float(cosines.min())
    return found


def row(name: str, options: argparse.Namespace, root: Path, left: float) -> dict[str, Any]:
    """One part's figures."""
    shape, limit = PARTS[name]
    folder = root / name
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.sharded", "--only", name, "--folder", str(folder)]
    for field in ("warm", "steps", "texts", "processes"):
        command += [f"--{field}", str(getattr(options, field))]
    if name == "parallel":
        command = [sys.executable, "-m", "benchmarks.parallel", "--folder", str(root / "model")]
        command += ["--out", str(folder / "parallel.json"), "--warm", str(options.warm)]
        command += ["--steps", str(options.steps)]
    facts: dict[str, Any] = {"part": name, "shape": shape}
    facts |= bounded(command, max(5.0, min(limit, left)), root / f"{name}.log")
    facts["processes"] = figures(folder)
    if (folder / "stop.json").exists():
        facts |= json.loads((folder / "stop.json").read_text(encoding="utf-8"))
    if (folder / "parallel.json").exists():
        facts["parallel"] = json.loads((folder / "parallel.json").read_text(encoding="utf-8"))
    return facts


def main() -> None:
    """All parts, or one of them within its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=390, help="for all parts together")
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--steps", type=int, default=17)
    parser.add_argument("--texts", type=int, default=480)
    parser.add_argument("--processes", type=int, default=0, help="default: a card each")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    if options.only:
        several = gpus(options.processes or 64) if on_gpu else [""] * (options.processes or 2)
        large = options.only == "large"
        work = Work(
            PARTS[options.only][0],
            options.warm,
            min(options.steps, 5) if large else options.steps,
            options.texts,
            options.folder,
            {} if on_gpu else common.TINY,
        )
        if options.only == "stopped":
            stopped(work, several)
        else:
            run_part(work, several[:1] if options.only == "whole" else several)
        return
    began, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="sharded-") as scratch:
        root = Path(scratch)
        for name in options.parts:
            rows.append(row(name, options, root, options.seconds - time.perf_counter() + began))
            if name in AGAINST:
                rows[-1][f"against {AGAINST[name]}"] = compared(root / AGAINST[name], root / name)
            text = json.dumps({**common.describe(), "rows": rows}, indent=1)
            if options.out is not None:  # after each part: what comes next may fail
                options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
