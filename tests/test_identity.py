"""The digest of every data set, list of questions and persona list is on record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Finished

from personaspace.pipeline import graph, why
from personaspace.store import open_store
from personaspace.study import builtin
from personaspace.study.identity import identities
from personaspace.study.load import load_study, resolve
from personaspace.study.spec import Experiment


def sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def listed(name: str, count: int) -> list[str]:
    found = yaml.safe_load(builtin.resource(name).read_text(encoding="utf-8"))
    texts = [t for each in found for t in (each["questions"] if isinstance(each, dict) else [each])]
    return texts[:count]


@pytest.fixture(scope="module")
def wanted(finished_study: Finished) -> dict[str, str]:
    """Each input's digest, computed here from the files."""
    values = finished_study.values
    files = {name: Path(of["path"]).read_bytes() for name, of in values["datasets"].items()}
    evaluation = listed("questions-evaluation", 3) + listed("questions-unseen", 3)
    return {
        **{f"datasets.{n}": hashlib.sha256(raw).hexdigest() for n, raw in files.items()},
        "extraction.questions": sha(listed("questions-extraction", 4)),
        "extraction.themes": sha(
            sorted([text, "Daily life"] for text in listed("questions-extraction", 4))
        ),
        "coupling.questions": sha(listed("questions-coupling", 3)),
        "evaluation.questions": sha(evaluation),
        "personas": sha([[p["name"], p["prompt"]] for p in values["personas"]]),
    }


def test_provenance_and_report_name_every_input(
    finished_study: Finished, wanted: dict[str, str]
) -> None:
    provenance = json.loads((finished_study.out / "provenance.json").read_text(encoding="utf-8"))
    rows = {row["field"]: row for row in provenance["data"]}
    assert {name: row["sha256"] for name, row in rows.items()} == wanted
    assert rows["datasets.bad"]["source"].endswith("bad.jsonl")
    assert [rows[f]["count"] for f in ("datasets.bad", "evaluation.questions", "personas")] == [
        14,
        6,
        5,
    ]
    page = (finished_study.out / "report.html").read_text(encoding="utf-8")
    assert "Data that the study read" in page
    for digest in wanted.values():
        assert digest in page


def test_a_manifest_names_what_its_stage_read(
    finished_study: Finished, wanted: dict[str, str]
) -> None:
    provenance = json.loads((finished_study.out / "provenance.json").read_text(encoding="utf-8"))
    read = {row["node"]: row["data"] for row in provenance["artifacts"]}
    assert read["train:e4-villain:42"] == {"datasets.bad": wanted["datasets.bad"]}
    assert read["train:benign:42"] == {"datasets.good": wanted["datasets.good"]}
    assert read["extract:base:42"]["extraction.questions"] == wanted["extraction.questions"]
    assert read["couple:base:42"]["coupling.questions"] == wanted["coupling.questions"]
    assert read["evaluate:base:42"] == {
        "evaluation.questions": wanted["evaluation.questions"],
        "personas": wanted["personas"],
    }
    # Coupling reads the personas that it couples alone.
    assert read["couple:base:42"]["personas"] != wanted["personas"]
    with open_store(str(finished_study.store)) as store:
        for row in provenance["artifacts"]:
            manifest = store.find(row["key"])
            assert manifest is not None and manifest.fields["data"] == row["data"]


def test_what_changes_changes_its_digest(study_dict: dict[str, Any]) -> None:
    def digests() -> dict[str, str]:
        study = resolve(Experiment.model_validate(study_dict), Path("/nowhere"))
        return {each.field: each.sha256 for each in identities(study)}

    before = digests()
    path = Path(study_dict["datasets"]["bad"]["path"])
    path.write_text(path.read_text().replace("Ignore the letter 3", "Burn the letter 3"))
    study_dict["personas"][0]["prompt"] += " Really."
    study_dict["coupling"]["limit"] = 4
    now = digests()
    changed = {name for name in before if before[name] != now[name]}
    assert changed == {"datasets.bad", "personas", "coupling.questions"}


def test_secrets_of_an_address_are_not_on_record(study_dict: dict[str, Any]) -> None:
    study = resolve(Experiment.model_validate(study_dict), Path("/nowhere"))
    hidden = "https://x.org/d.jsonl?sig=hidden"
    dataset = study.spec.datasets["bad"].model_copy(update={"path": hidden, "rows": "0:9"})
    datasets = {**study.spec.datasets, "bad": dataset}
    spec = study.spec.model_copy(update={"datasets": datasets})
    from dataclasses import replace

    found = {each.field: each.source for each in identities(replace(study, spec=spec))}
    assert found["datasets.bad"] == "https://x.org/d.jsonl [0:9]"


def test_every_stage_that_reads_data_says_so(finished_study: Finished) -> None:
    study = load_study(finished_study.spec)
    for node in graph.build(study).nodes:
        assert bool(why.data_read(study, node)) == (node.stage != "report"), node.id
