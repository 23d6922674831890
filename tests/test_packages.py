"""The wheel, built from the source package and installed where nothing else is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from conftest import Finished
from test_light_install import closure

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.long


def done(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command as a user starts it: without this repository on the path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make dist` builds it: the source package first, and from that the wheel."""
    folder = tmp_path_factory.mktemp("packages")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("personaspace", "jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check"]
    built = done([*build, "--outdir", folder / "dist", source], folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and what its extra `analysis` names.

    pip installs the wheel, which is what is tested; the packages that it would fetch are links to
    those of the tests' own environment.
    """
    folder = tmp_path_factory.mktemp("environment")
    assert done([sys.executable, "-m", "venv", "--without-pip", folder], folder).returncode == 0
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "-q",
    ]
    found = done([*pip, "--no-compile", "--no-deps", "--no-index", wheel], folder)
    assert found.returncode == 0, found.stderr
    here = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in closure(_needs(wheel, "analysis")):
        _link(name, here)
    return folder / "bin"


def _needs(wheel: Path, extra: str) -> set[str]:
    """Distributions that the wheel's own metadata ask for."""
    file = zipfile.ZipFile(wheel)
    (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
    lines = file.read(name).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line]
    chosen = [need for need in needs if ";" not in need or f'extra == "{extra}"' in need]
    return {re.split(r"[^\w.-]", need)[0] for need in chosen}


def _link(distribution: str, here: Path) -> None:
    """What a distribution has in the tests' environment, as links."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:  # of another platform or Python
        return
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        if not (here / top).exists():
            (here / top).symlink_to(Path(str(metadata.distribution(distribution).locate_file(top))))


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    there = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for folder in ("personaspace", "jobs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(files) > 300 and files - there == set()
    assert not [name for name in there if name.startswith("tests/")]


def test_a_finished_study_is_read_without_torch(
    installed: Path, finished_study: Finished, tmp_path: Path
) -> None:
    program, spec = installed / "personaspace", str(finished_study.spec)
    assert done([installed / "python", "-c", "import torch"], tmp_path).returncode != 0
    store = ["--store", str(finished_study.store)]
    for command in (
        ["validate", spec],
        ["power", spec],
        ["results", spec, *store],
        ["report", spec, *store, "--out", str(tmp_path / "report")],
    ):
        found = done([program, *command], tmp_path)
        assert found.returncode == 0, f"{command}: {found.stderr}"
    for extra, command in (("run", ["run", spec]), ("cluster", ["status", "em205"])):
        found = done([program, *command], tmp_path)
        assert found.returncode == 2 and found.stderr.count("\n") == 1
        assert f"pip install 'personaspace[{extra}]'" in found.stderr


def test_a_stage_runs_from_the_wheel(
    installed: Path, finished_study: Finished, tmp_path: Path
) -> None:
    """What `run` needs lies in the environment of the tests; the package is the wheel's."""
    here = Path(sysconfig.get_path("purelib", vars={"base": str(installed.parent)}))
    others = here / "others.pth"
    others.write_text(sysconfig.get_path("purelib"))
    try:
        where = "import personaspace; print(personaspace.__file__)"
        found = done([installed / "python", "-c", where], tmp_path).stdout
        assert found.startswith(str(installed.parent))
        options = ["--store", str(tmp_path / "store"), "--only", "train:benign"]
        ran = done([installed / "personaspace", "run", finished_study.spec, *options], tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert "1 stage ran" in ran.stdout
    finally:
        others.unlink()
