"""Reading JSON: that people wrote, and that stages wrote and people may have changed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from personaspace.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        name = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise UserError(f"duplicate key {name!r}")
    return seen


def read_json(path: Path | str) -> Any:
    """A JSON file in which no object has a key twice.

    Raises:
        UserError: Missing, unreadable, not UTF-8, not JSON, or a repeated key.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}: not JSON ({where}: {error.msg})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def as_model(value: Any, model: type[Model], where: str) -> Model:
    """JSON's values as a model.

    Raises:
        UserError: A field that does not fit the model; the message is `where` and the field's name.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UserError(f"{where}: {field}: {first['msg']}") from None


def read_model(path: Path | str, model: type[Model]) -> Model:
    """A JSON file as a model.

    Raises:
        UserError: As of `read_json` and `as_model`.
    """
    return as_model(read_json(path), model, str(path))
