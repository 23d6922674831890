"""Activation files: hidden states by persona, question and layer, one safetensors file each.

A file holds `activations` (float16 or float32, `[persona, question, layer, hidden]`) and `valid`
(bool, `[persona, question]`: whether there was an answer to read). Its metadata name the personas,
questions and layers as JSON lists, and may name condition, seed and method, which the file's name
(`<condition>.seed-<n>.<a|b>.safetensors`) says as well. Readers take one layer at a time.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from personaspace.errors import UserError

FILE_NAME = re.compile(r"(?P<condition>.+)\.seed-(?P<seed>-?\d+)\.(?P<method>[ab])\.safetensors")
_HALF = re.compile(r"[\ud800-\udfff]")
_DTYPES = ("F16", "F32")
#: Squares of such values, summed over a layer's width, are still finite in float32.
_LARGEST = 1e15
#: Layers and seeds are numbers of so many digits at most.
_MOST_DIGITS = 18
_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class ActivationFile:
    """What an activation file says of itself; the activations stay on disk.

    Attributes:
        path: The file.
        condition: Whose activations they are.
        seed: Training seed.
        method: `a` (last prompt token) or `b` (mean over the answer).
        personas: Names along axis 0.
        questions: Texts along axis 1.
        layers: Decoder layers along axis 2, counted from 0.
        hidden: Size of axis 3.
        valid: `[persona, question]`, false where there was nothing to read.
        places: Where personas and questions stand in the file; None: in this order.
    """

    path: Path
    condition: str
    seed: int
    method: str
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    layers: tuple[int, ...]
    hidden: int
    valid: NDArray[np.bool_]
    places: tuple[list[int], list[int]] | None = None

    def ordered_like(self, other: ActivationFile) -> ActivationFile:
        """The same with personas and questions in another file's order.

        Of a file with other personas or questions, itself.
        """
        mine, theirs = (self.personas, self.questions), (other.personas, other.questions)
        if mine == theirs or any(set(a) != set(b) for a, b in zip(mine, theirs, strict=True)):
            return self
        places = [
            [names.index(name) for name in wanted]
            for names, wanted in zip(mine, theirs, strict=True)
        ]
        valid = self.valid[np.ix_(*places)]
        if self.places is not None:
            places = [[at[i] for i in new] for at, new in zip(self.places, places, strict=True)]
        rows, columns = places
        return replace(
            self,
            personas=other.personas,
            questions=other.questions,
            valid=valid,
            places=(rows, columns),
        )

    def read_layer(self, layer: int) -> NDArray[np.float32]:
        """Activations of one layer, `[persona, question, hidden]`; invalid entries are 0.

        Raises:
            UserError: NaN or infinity in a valid entry, or the file cannot be read any more.
        """
        index = self.layers.index(layer)
        try:
            with safe_open(self.path, framework="numpy") as file:
                stored = file.get_slice("activations")[:, :, index, :]
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path}: cannot be read ({_one_line(error)})") from None
        except (ValueError, TypeError, KeyError) as error:  # its header names what is not there
            raise UserError(f"{self.path}: cannot be read ({_one_line(error)})") from None
        if self.places is not None:
            stored = stored[np.ix_(*self.places)]
        states: NDArray[np.float32] = stored.astype(np.float32)
        if not self.valid.all():
            states[~self.valid] = 0.0
        # NaN fails the comparison too; this costs a fraction of looking at each one.
        with np.errstate(invalid="ignore"):
            sound = states.max(initial=0) < _LARGEST and states.min(initial=0) > -_LARGEST
        if not sound:
            self._name_the_broken(states, layer)
        return states

    def _name_the_broken(self, states: NDArray[np.float32], layer: int) -> None:
        finite = np.isfinite(states).all(axis=2)
        broken = np.argwhere(~finite)
        what = "NaN or infinity"
        if not len(broken):
            broken = np.argwhere((np.abs(states) >= _LARGEST).any(axis=2))
            what = f"values beyond {_LARGEST:.0e}, whose squares overflow"
        persona, question = broken[0]
        entries = "entry" if len(broken) == 1 else "entries"
        raise UserError(
            f"{self.path}: activations of persona {self.personas[persona]!r}, question "
            f"{question}, layer {layer} hold {what} ({len(broken)} such {entries})"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _json_list(path: Path, metadata: dict[str, str], key: str, kind: type) -> tuple[Any, ...]:
    if key not in metadata:
        raise UserError(f"{path}: metadata has no {key!r} (a JSON list)")
    try:
        values = json.loads(metadata[key])
    except json.JSONDecodeError:
        raise UserError(f"{path}: metadata {key!r} is not JSON") from None
    except (ValueError, RecursionError):
        raise UserError(
            f"{path}: metadata {key!r} cannot be read: too deep, or a number of too many digits"
        ) from None
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        what = "texts" if kind is str else "whole numbers"
        raise UserError(f"{path}: metadata {key!r} is not a JSON list of {what}")
    if kind is int and not all(0 <= value < 10**6 for value in values):
        raise UserError(f"{path}: metadata {key!r} holds a number that no layer has")
    if kind is str and any(_HALF.search(value) for value in values):
        raise UserError(f"{path}: metadata {key!r}: half of a surrogate pair is not a character")
    if len(set(values)) != len(values):
        raise UserError(f"{path}: metadata {key!r} names something twice")
    return tuple(values)


def _identity(path: Path, metadata: dict[str, str]) -> tuple[str, int, str]:
    """Condition, seed and method, from metadata and the file's name, which must agree."""
    match = FILE_NAME.fullmatch(path.name)
    named = match.groupdict() if match else {}
    found: dict[str, str] = {}
    for key in ("condition", "seed", "method"):
        stated = metadata.get(key, named.get(key))
        if stated is None:
            raise UserError(
                f"{path}: neither the metadata nor the name "
                f"(<condition>.seed-<n>.<a|b>.safetensors) says which {key} this is"
            )
        if stated != named.get(key, stated):
            raise UserError(f"{path}: metadata say {key} {stated!r}, the name says {named[key]!r}")
        found[key] = stated
    if found["method"] not in ("a", "b"):
        raise UserError(f"{path}: method {found['method']!r} is neither a nor b")
    try:
        if len(found["seed"]) > _MOST_DIGITS:
            raise ValueError
        return found["condition"], int(found["seed"]), found["method"]
    except ValueError:
        raise UserError(f"{path}: seed {found['seed']!r} is not a whole number") from None


def open_activations(path: Path | str) -> ActivationFile:
    """Reads and checks everything but the activations themselves.

    Raises:
        UserError: Not a readable safetensors file, a tensor or a list is missing, or names and
            shapes do not fit together.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            for name in ("activations", "valid"):
                if name not in names:
                    raise UserError(f"{path}: has no tensor {name!r}")
            part = file.get_slice("activations")
            shape, dtype = tuple(part.get_shape()), part.get_dtype()
            valid = file.get_tensor("valid")
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({_one_line(error)})") from None
    if dtype not in _DTYPES:
        raise UserError(f"{path}: activations are {dtype}, not float16 or float32")
    condition, seed, method = _identity(path, metadata)
    personas = _json_list(path, metadata, "personas", str)
    questions = _json_list(path, metadata, "questions", str)
    layers = _json_list(path, metadata, "layers", int)
    wanted = (len(personas), len(questions), len(layers))
    if len(shape) != 4 or shape[:3] != wanted or 0 in shape:
        raise UserError(
            f"{path}: activations have shape {list(shape)}, but the metadata name {wanted[0]} "
            f"personas, {wanted[1]} questions and {wanted[2]} layers"
        )
    if valid.dtype != np.bool_ or valid.shape != shape[:2]:
        raise UserError(
            f"{path}: valid is {valid.dtype} {list(valid.shape)}, not bool {list(shape[:2])}"
        )
    return ActivationFile(
        path, condition, seed, method, personas, questions, layers, shape[3], valid
    )


def wordings_file(path: Path) -> Path:
    """Where the activations of single wordings lie, beside a file of their means.

    Its rows are the wordings of personas with several, each called by persona and number.
    """
    return path.with_name(f"{path.stem}.wordings.safetensors")


def wording_name(persona: str, number: int) -> str:
    """What a wording's row is called; no persona can be called so."""
    return f"{persona} #{number}"


def find_activations(folder: Path | str) -> tuple[list[Path], list[str]]:
    """Activation files of a folder by their names, sorted, and the other safetensors files' names.

    Raises:
        UserError: No such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    paths = sorted(folder.glob("*.safetensors"))
    fitting = [path for path in paths if FILE_NAME.fullmatch(path.name)]
    known = {*fitting, *map(wordings_file, fitting)}
    return fitting, [path.name for path in paths if path not in known]


def named_activations(folder: Path | str) -> tuple[list[Path], list[str]]:
    """Activation files of a folder, sorted, and a note on each safetensors file of another name.

    Raises:
        UserError: No such folder, or none in it.
    """
    fitting, others = find_activations(folder)
    if not fitting:
        raise UserError(f"{folder}: no <condition>.seed-<n>.<a|b>.safetensors files")
    why = "is left out: not named <condition>.seed-<n>.<a|b>.safetensors"
    return fitting, [f"{name} {why}" for name in others]


def write_activations(
    path: Path | str,
    activations: NDArray[np.floating[Any]],
    valid: NDArray[np.bool_],
    *,
    personas: Sequence[str],
    questions: Sequence[str],
    layers: Sequence[int],
    condition: str,
    seed: int,
    method: str,
) -> None:
    """Writes an activation file whole or not at all.

    Stored as float16, or as float32 where a value would overflow float16. Invalid entries are
    stored as 0.

    Args:
        path: Where to; its folder exists.
        activations: `[persona, question, layer, hidden]`.
        valid: `[persona, question]`.
        personas: Names along axis 0.
        questions: Texts along axis 1.
        layers: Layers along axis 2.
        condition: Condition name.
        seed: Training seed.
        method: `a` or `b`.

    Raises:
        UserError: NaN or infinity in a valid entry.
        ValueError: Shapes and names do not fit together.
    """
    path = Path(path)
    wanted = (len(personas), len(questions), len(layers))
    if activations.ndim != 4 or activations.shape[:3] != wanted or valid.shape != wanted[:2]:
        raise ValueError(f"activations {activations.shape}, valid {valid.shape}: wanted {wanted}")
    states = np.where(valid[:, :, None, None], activations, activations.dtype.type(0))
    if not np.isfinite(states).all():
        raise UserError(f"{path}: activations hold NaN or infinity")
    fits = states.dtype == np.float16 or float(np.abs(states).max(initial=0)) <= _FLOAT16_MAX
    metadata = {
        "personas": json.dumps(list(personas)),
        "questions": json.dumps(list(questions)),
        "layers": json.dumps([int(layer) for layer in layers]),
        "condition": condition,
        "seed": str(seed),
        "method": method,
    }
    tensors = {
        "activations": np.ascontiguousarray(states, dtype=np.float16 if fits else np.float32),
        "valid": np.ascontiguousarray(valid, dtype=np.bool_),
    }
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata)
        _sort_header(Path(temporary))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def mean_vectors(file: ActivationFile) -> NDArray[np.float32]:
    """Persona vectors, `[persona, layer, hidden]`: each persona's mean over its valid questions.

    NaN for a persona without any.
    """
    counts_P1 = file.valid.sum(axis=1)[:, None].astype(np.float64)
    layers = []
    for layer in file.layers:
        kept_PQH = np.where(file.valid[:, :, None], file.read_layer(layer), 0)
        with np.errstate(invalid="ignore"):  # 0/0 is the NaN of a persona without answers
            layers.append(kept_PQH.sum(axis=1, dtype=np.float64) / counts_P1)
    return np.stack(layers, axis=1).astype(np.float32)


def write_vectors(path: Path | str, file: ActivationFile) -> None:
    """Writes `mean_vectors` as one tensor, `vectors`; names and layers are in the metadata.

    Args:
        path: Where to; its folder exists.
        file: Whose means.
    """
    metadata = {
        "personas": json.dumps(list(file.personas)),
        "layers": json.dumps(list(file.layers)),
        "condition": file.condition,
        "seed": str(file.seed),
        "method": file.method,
    }
    save_file({"vectors": np.ascontiguousarray(mean_vectors(file))}, path, metadata)
    _sort_header(Path(path))


def _sort_header(path: Path) -> None:
    """Puts the header's entries in order, in place.

    safetensors writes metadata in the order of a hash table, another one each time; the same
    activations shall be the same bytes, as artifacts are known by their content's digest.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        settled = text.encode().ljust(length)
        assert len(settled) == length
        file.seek(8)
        file.write(settled)
