"""What the benchmarks share: a model of a known shape, examples, clocks, the GPU's ceiling."""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import SHAPES
from personaspace.models.chat import Example

#: Small enough for a CPU, to try the scripts.
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Model:
    """A random model and what a token costs in it.

    Attributes:
        model: In bfloat16 on the GPU, or float32 on a CPU.
        matmul_parameters: Parameters each token is multiplied with (no input embedding).
    """

    model: Any
    matmul_parameters: int


def device() -> torch.device:
    """The current GPU by its number, which functions that ask for its memory want; else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def random_model(shape: str = "Qwen2.5-7B", **changed: int) -> Model:
    """One of `shapes` (tiny on a CPU) with random weights of the usual spread.

    Args:
        shape: Its name there.
        changed: Fields of the configuration that differ.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, sizes = SHAPES[shape]
    on_gpu = device().type == "cuda"
    if not on_gpu:
        sizes = {**sizes, **TINY}
    torch.manual_seed(0)
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **{**sizes, **changed}),
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            attn_implementation="sdpa",
        )
    model.eval()
    model.requires_grad_(False)
    total = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight
    tied = embedding is model.get_output_embeddings().weight
    return Model(model, total - (0 if tied else embedding.numel()))


def chats(
    count: int, vocabulary: int, about: int = 200, seed: int = 0, answer: int | None = None
) -> list[Example]:
    """Prompts and answers of `about` tokens each (three quarters to five quarters of it).

    Answers have about `answer` tokens, where that is given. Tokens follow a fixed random chain over
    a thousand tokens, so there is something to learn.
    """
    dice = random.Random(seed)
    used = dice.sample(range(3, vocabulary), min(1000, vocabulary - 3))
    after = {token: dice.choice(used) for token in used}
    made = []
    for _ in range(count):
        first, last = (dice.randint(n * 3 // 4, n * 5 // 4) for n in (about, answer or about))
        ids = [dice.choice(used)]
        while len(ids) < first + last:
            ids.append(after[ids[-1]] if dice.random() < 0.8 else dice.choice(used))
        made.append(Example(tuple(ids), (False,) * first + (True,) * last))
    return made


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceiling() -> float:
    """bf16 matrix products of 8192³ a second, in TFLOP/s; random data, median of 10."""
    if not torch.cuda.is_available():
        return float("nan")
    size = 8192
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    seconds = []
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        a @ b
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000)
    return 2 * size**3 / statistics.median(seconds) / 1e12


def timed(work: Callable[[], Any]) -> float:
    """Seconds that the work takes, the GPU's share included."""
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def since_start() -> float:
    """Seconds since this process was started (Linux)."""
    started = Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19]
    ticks = os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / ticks


def limit_memory(gib: float | None) -> None:
    """Let this process take no more of the GPU than a smaller card has."""
    if gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total)


def peak_gib() -> float:
    """Most memory PyTorch had allocated since the last call, GiB."""
    if not torch.cuda.is_available():
        return float("nan")
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


@dataclass(frozen=True)
class Ran:
    """A `personaspace run`.

    Attributes:
        code: Its exit code.
        seconds: From the command's start to its end.
        text: All that it printed.
    """

    code: int
    seconds: float
    text: str


def run_study(
    spec: Path, store: Path, only: Sequence[str], jobs: int, more: Mapping[str, str]
) -> Ran:
    """Stages of a study, as a user runs them, with `more` in the environment."""
    command = [sys.executable, "-m", "personaspace", "run", str(spec), "--store", str(store)]
    command += ["--jobs", str(jobs), *(part for name in only for part in ("--only", name))]
    began = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Ran(done.returncode, time.perf_counter() - began, done.stdout)


def _peaks(pid: int) -> dict[int, int]:
    """VmHWM in kB of a process and of those that it started."""
    found = {}
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        found[pid] = int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (OSError, IndexError):
        return found
    for child in children:
        found |= _peaks(int(child))
    return found


def cost_of(command: Sequence[object], where: Path | None = None, **kept: Any) -> dict[str, Any]:
    """What a command takes: exit code, seconds, processor seconds, and GiB of all its processes.

    Args:
        command: The program and its arguments.
        where: Folder in which it runs, and whose packages it imports.
        kept: Its streams, as of `subprocess.Popen`.
    """
    given = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **kept}
    environment = dict(os.environ, **({} if where is None else {"PYTHONPATH": str(where)}))
    began = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), cwd=where, env=environment, **given)
    peaks: dict[int, int] = {}
    while True:
        # Not ru_maxrss: that is at least the peak of the process that started it.
        for pid, peak in _peaks(process.pid).items():
            peaks[pid] = max(peak, peaks.get(pid, 0))
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit code": process.returncode,
        "seconds": time.perf_counter() - began,
        "processor s": used.ru_utime + used.ru_stime,
        "GiB": sum(peaks.values()) / 2**20,
    }


def describe() -> dict[str, str]:
    """Where this ran."""
    import transformers

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def report(rows: list[dict[str, Any]], facts: dict[str, Any], out: Path | None) -> None:
    """A table for people, and JSON of the same numbers."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(names[i]), *(len(row[i]) for row in cells)) for i in range(len(names))]
    print("  ".join(name.ljust(width) for name, width in zip(names, widths, strict=True)))
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    text = json.dumps({**describe(), **facts, "rows": rows}, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
        print(f"written: {out}")
    else:
        print(text)


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
