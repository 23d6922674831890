"""Activation files: what is written comes back, and what is broken is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import Arm, world, write
from safetensors.numpy import save_file

from personaspace.activations.files import find_activations, open_activations, write_activations
from personaspace.analysis.geometry import analyse_geometry
from personaspace.errors import UserError

LISTS = {
    "personas": json.dumps(["villain", "assistant"]),
    "questions": json.dumps(["Why?", "How?", "When?"]),
    "layers": json.dumps([7, 20]),
}
STATES = np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype(np.float16)
VALID = np.ones((2, 3), dtype=bool)


def put(
    folder: Path,
    tensors: dict[str, Any] | None = None,
    metadata: dict[str, str] | None = None,
    name: str = "base.seed-42.a.safetensors",
) -> Path:
    path = folder / name
    save_file(tensors or {"activations": STATES, "valid": VALID}, path, metadata or LISTS)
    return path


def test_a_file_by_somebody_else_is_read_by_its_name_and_lists(tmp_path: Path) -> None:
    file = open_activations(put(tmp_path, name="e4-villain.seed--7.b.safetensors"))
    assert (file.condition, file.seed, file.method) == ("e4-villain", -7, "b")
    assert file.personas == ("villain", "assistant") and file.layers == (7, 20)
    assert file.hidden == 5
    assert (file.read_layer(20) == STATES[:, :, 1].astype(np.float32)).all()


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    valid = VALID.copy()
    valid[1, 2] = False
    states = STATES.astype(np.float32)
    states[1, 2] = np.nan
    path = tmp_path / "whatever.safetensors"
    write_activations(
        path,
        states,
        valid,
        personas=["villain", "assistant"],
        questions=["Why?", "Wie?", "何?"],
        layers=[7, 20],
        condition="e0-assistant",
        seed=42,
        method="b",
    )
    file = open_activations(path)
    assert (file.condition, file.seed, file.method) == ("e0-assistant", 42, "b")
    assert file.questions == ("Why?", "Wie?", "何?")
    assert (file.valid == valid).all()
    read = file.read_layer(7)
    assert (read[valid] == STATES[:, :, 0].astype(np.float32)[valid]).all()
    assert (read[1, 2] == 0).all()
    assert [p.name for p in tmp_path.iterdir()] == ["whatever.safetensors"]


@pytest.mark.parametrize("value, stored", [(60_000.0, np.float16), (70_000.0, np.float32)])
def test_values_that_overflow_float16_are_kept(
    tmp_path: Path, value: float, stored: type[np.floating[Any]]
) -> None:
    states = np.ones((1, 1, 1, 2), dtype=np.float32) * value
    path = tmp_path / "base.seed-1.a.safetensors"
    write_activations(
        path, states, np.ones((1, 1), dtype=bool), personas=["p"], questions=["q"], layers=[0],
        condition="base", seed=1, method="a",
    )  # fmt: skip
    from safetensors.numpy import load_file

    assert load_file(path)["activations"].dtype == stored
    assert open_activations(path).read_layer(0)[0, 0, 0] == value


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_by_reader_and_writer(tmp_path: Path, broken: float) -> None:
    states = STATES.copy()
    states[1, 2, 1, 3] = broken
    path = put(tmp_path, {"activations": states, "valid": VALID})
    file = open_activations(path)
    file.read_layer(7)
    with pytest.raises(UserError, match=r"persona 'assistant', question 2, layer 20 hold NaN"):
        file.read_layer(20)
    with pytest.raises(UserError, match="NaN or infinity"):
        write_activations(
            tmp_path / "new.safetensors", states, VALID, personas=["villain", "assistant"],
            questions=["1", "2", "3"], layers=[7, 20], condition="c", seed=1, method="a",
        )  # fmt: skip
    assert not (tmp_path / "new.safetensors").exists()


def test_large_values_are_no_infinity(tmp_path: Path) -> None:
    states = np.full((2, 3, 2, 5), 9e14, dtype=np.float32)
    file = open_activations(put(tmp_path, {"activations": states, "valid": VALID}))
    assert (file.read_layer(7) == np.float32(9e14)).all()


@pytest.mark.parametrize(
    "tensors, metadata, complaint",
    [
        ({"valid": VALID}, LISTS, "no tensor 'activations'"),
        ({"activations": STATES}, LISTS, "no tensor 'valid'"),
        ({"activations": STATES.astype(np.float64), "valid": VALID}, LISTS, "are F64, not float16"),
        ({"activations": STATES[:1], "valid": VALID}, LISTS, "shape [1, 3, 2, 5]"),
        ({"activations": STATES[..., 0], "valid": VALID}, LISTS, "shape [2, 3, 2]"),
        ({"activations": STATES, "valid": VALID[:1]}, LISTS, "valid is bool [1, 3]"),
        ({"activations": STATES, "valid": VALID.astype(np.int64)}, LISTS, "valid is int64"),
        (None, {"personas": LISTS["personas"]}, "metadata has no 'questions'"),
        (None, {**LISTS, "layers": "7, 20"}, "'layers' is not JSON"),
        (None, {**LISTS, "layers": '["7", "20"]'}, "not a JSON list of whole numbers"),
        (None, {**LISTS, "layers": "[7, true]"}, "not a JSON list of whole numbers"),
        (None, {**LISTS, "personas": '{"villain": 1}'}, "not a JSON list of texts"),
        (None, {**LISTS, "personas": '["villain", "villain"]'}, "names something twice"),
        (None, {**LISTS, "personas": '["villain"]'}, "metadata name 1 personas"),
        (
            None,
            {**LISTS, "condition": "e4-villain"},
            "condition 'e4-villain', the name says 'base'",
        ),
        (None, {**LISTS, "seed": "1"}, "seed '1', the name says '42'"),
    ],
)
def test_malformed_files_are_one_line_errors(
    tmp_path: Path, tensors: dict[str, Any] | None, metadata: dict[str, str], complaint: str
) -> None:
    path = put(tmp_path, tensors, metadata)
    with pytest.raises(UserError) as caught:
        open_activations(path)
    assert str(path) in str(caught.value) and complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_foreign_and_missing_files(tmp_path: Path) -> None:
    whole = put(tmp_path).read_bytes()
    for content in (b"", b"hello", whole[:20], whole[:-10]):
        path = tmp_path / "base.seed-42.a.safetensors"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable safetensors file"):
            open_activations(path)
    with pytest.raises(UserError, match="not found"):
        open_activations(tmp_path / "absent.seed-1.a.safetensors")
    path = put(tmp_path, name="no-identity.safetensors")
    with pytest.raises(UserError, match="says which condition"):
        open_activations(path)


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    paths = write(tmp_path, world({"base": Arm(), "benign": Arm()}, personas=3, questions=4))
    other = tmp_path / "other"
    other.mkdir()
    for size, complaint in (
        ({"personas": 4, "questions": 4}, "other personas than base"),
        ({"personas": 3, "questions": 5}, "other questions than base"),
        ({"personas": 3, "questions": 4, "layers": 2}, "other layers than base"),
        ({"personas": 3, "questions": 4, "hidden": 8}, "other hidden than base"),
    ):
        more = write(other, world({"e4-villain": Arm()}, **size))
        with pytest.raises(UserError, match=complaint):
            analyse_geometry([*paths, *more])
    with pytest.raises(UserError, match="same condition, seed and method"):
        analyse_geometry([*paths, *write(other, world({"base": Arm()}, personas=3, questions=4))])


def test_a_zero_vector_has_no_direction(tmp_path: Path) -> None:
    drawn = world({"base": Arm(), "benign": Arm()}, personas=3, questions=4)
    drawn.states["benign"][1] = 0
    with pytest.raises(UserError, match="persona 'librarian' at layer 0 is zero"):
        analyse_geometry(write(tmp_path, drawn))


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    for name in ("e4.seed-1.b", "base.seed-1.a", "e4.seed-1.a", "adapter_model"):
        put(tmp_path, name=f"{name}.safetensors")
    files, others = find_activations(tmp_path)
    assert [path.name for path in files] == [
        "base.seed-1.a.safetensors",
        "e4.seed-1.a.safetensors",
        "e4.seed-1.b.safetensors",
    ]
    assert others == ["adapter_model.safetensors"]
    with pytest.raises(UserError, match="no such folder"):
        find_activations(tmp_path / "absent")
