"""What is written from the models is fresh, and what the pages promise exists."""

from __future__ import annotations

import ast
import json
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
import yaml
from typer.testing import CliRunner

from personaspace.analysis import results
from personaspace.cli.app import app
from personaspace.study import spec_page
from personaspace.study.spec import Experiment
from personaspace.version import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def test_schema_and_reference_page_are_fresh() -> None:
    written = json.loads((ROOT / "docs" / "spec.schema.json").read_text(encoding="utf-8"))
    assert written == Experiment.model_json_schema(), "run `make schema`"
    assert (ROOT / "docs" / "spec.md").read_text(encoding="utf-8") == spec_page.markdown()


def test_schema_and_page_of_results_are_fresh() -> None:
    written = json.loads((ROOT / "docs" / "results.schema.json").read_text(encoding="utf-8"))
    assert written == results.json_schema(), "run `make schema`"
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == results.markdown(), "run `make schema`"
    fields = [
        field
        for part in [written, *written["$defs"].values()]
        for field in part.get("properties", {}).values()
    ]
    assert len(fields) > 70 and all(field.get("description") for field in fields)
    left_out = {
        (part["title"], name)
        for part in [written, *written["$defs"].values()]
        for name in set(part.get("properties", {})) - set(part.get("required", []))
    }
    # What was not there before is left out where it says nothing: other files stay as they were.
    assert left_out == {("PersonaInfo", "prompts")}, "a file that is written has every field"


def test_readme_names_commands_and_targets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    calls = r"^personaspace (\w+) (?:study.yaml|answers.json|folder)"
    named = set(re.findall(calls, readme, flags=re.MULTILINE))
    assert named >= {"validate", "run", "status", "results", "report", "score", "geometry"}
    for command in named:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", readme):
        assert f"\n{target}:" in makefile, target
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_every_setting_has_an_entry_on_the_reference_page() -> None:
    page = spec_page.markdown()
    for name, part in Experiment.model_json_schema()["$defs"].items():
        assert f"## {name}" in page
        for field in part.get("properties", ()):  # an enumeration has none
            assert f"| `{field}` |" in page, f"{name}.{field}"


def targets(text: str) -> set[str]:
    """Names of the make targets that a text calls."""
    calls = re.findall(r"make (?:-s )?([a-z][a-z -]*)", text)
    return {word for call in calls for word in call.split() if not word.startswith("-")}


def test_what_ci_makes_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts = [(ROOT / ".ci" / "run").read_text(encoding="utf-8")]
    for path in WORKFLOWS:
        steps = [
            s for job in yaml.safe_load(path.read_text())["jobs"].values() for s in job["steps"]
        ]
        texts += [step.get("run", "") for step in steps]
    named = set().union(*(targets(text) for text in texts))
    assert named >= {"test", "lint", "coverage", "lint-chart", "images", "dist"}
    assert {name for name in named if f"\n{name}:" not in makefile} == set()


def test_actions_are_pinned_by_commit() -> None:
    """A tag can be moved to other code, which would run with our permissions."""
    used = [
        line.split("uses:")[1].strip()
        for path in WORKFLOWS
        for line in path.read_text(encoding="utf-8").splitlines()
        if "uses:" in line
    ]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action), action


def test_what_a_release_pushes_has_its_provenance_signed() -> None:
    release = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text(encoding="utf-8"))
    job = release["jobs"]["registry"]
    assert job["permissions"].keys() >= {"id-token", "attestations"}
    pushing = [
        step for step in job["steps"] if re.search(r"(docker|helm) push", step.get("run", ""))
    ]
    told = {f"${{{{ steps.{step['id']}.outputs" for step in pushing}
    signed = [s["with"] for s in job["steps"] if s.get("uses", "").startswith("actions/attest@")]
    names = {how["subject-name"].removeprefix("${{ env.OCI_REGISTRY }}/") for how in signed}
    assert names == {
        *(f"personaspace/{image}" for image in ("cpu", "gpu")),
        "personaspace/charts/experiment",
    }
    assert all(how["push-to-registry"] for how in signed)
    assert {how["subject-digest"].rpartition(".")[0] for how in signed} == told


def test_all_say_the_same_version() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "experiment" / "Chart.yaml").read_text())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {__version__} == {chart["version"], chart["appVersion"], citation["version"]}


def _too_long(folder: str, lines: int, function: int) -> list[str]:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        if (count := text.count("\n")) > lines:
            found.append(f"{where}: {count} lines")
        found += [
            f"{where}: {node.name}: {length} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := (node.end_lineno or 0) - node.lineno + 1) > function
        ]
    return found


@pytest.mark.slow
def test_no_module_and_no_function_is_too_long() -> None:
    """The limits that CONTRIBUTING.md names."""
    assert _too_long("personaspace", 400, 70) == []
    assert _too_long("jobs", 60, 60) == []
    assert _too_long("tests", 600, 150) == []


@pytest.mark.slow
def test_no_module_knows_one_that_knows_it() -> None:
    """Not in a function, and not for types alone either."""
    imports = grimp.build_graph("personaspace", "jobs", exclude_type_checking_imports=False)
    known = {name: imports.find_modules_directly_imported_by(name) for name in imports.modules}
    assert "personaspace.pipeline.context" in known["personaspace.pipeline.stage"]  # for types
    TopologicalSorter(known).prepare()
    known["personaspace.pipeline.context"].add("personaspace.pipeline.stage")
    with pytest.raises(CycleError):
        TopologicalSorter(known).prepare()
