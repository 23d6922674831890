"""What a study registers before it runs, and whether a page registers this study."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from personaspace.errors import UserError
from personaspace.study import sources
from personaspace.study.identity import identities
from personaspace.study.loaded import Registration, Study

#: Before and after what programs read of a page.
OPENS, CLOSES = "```json", "```"
_BLOCK = re.compile(rf"^{OPENS}\n(.*?)\n{CLOSES}$", re.MULTILINE | re.DOTALL)
_DIGEST = re.compile(r"^Digest: `([0-9a-f]{64})`$", re.MULTILINE)
#: Fields that are named where a study is another one.
_NAMED = 4


def registered(study: Study) -> dict[str, Any]:
    """What decides the results: the spec and the digests of its data.

    Not what is drawn, nor what is computed once more, nor the page itself.
    """
    spec = study.spec.told(exclude={"figures", "rerun", "hardware", "publish"})
    spec["analysis"].pop("registration", None)
    return {"spec": spec, "data": {each.field: each.sha256 for each in identities(study)}}


def digest(content: dict[str, Any]) -> str:
    """SHA-256 of what is registered, as JSON with sorted keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read(source: str, study: Study) -> Registration:
    """Reads a page and compares it with the study.

    Raises:
        UserError: Missing, no page of `preregister`, changed since it was written, or of another
            study; then it names the fields that differ.
    """
    text = sources.read_text(source, study.folder)
    name = sources.shown(source)
    block, said = _BLOCK.search(text), _DIGEST.search(text)
    if block is None or said is None:
        raise UserError(f"{name} is not a page that `personaspace preregister` wrote")
    try:
        content = json.loads(block[1])
    except ValueError:
        content = None
    if not isinstance(content, dict) or digest(content) != said[1]:
        raise UserError(f"{name} was changed after it was written: its digest is another one")
    mine = registered(study)
    if digest(mine) != said[1]:
        fields = list(differences(content, mine))
        more = f" and {len(fields) - _NAMED} more" if len(fields) > _NAMED else ""
        raise UserError(
            f"{name} registers another study: {', '.join(fields[:_NAMED])}{more} differ; register "
            "this one before it runs, or leave the page out"
        )
    return Registration(name, hashlib.sha256(text.encode()).hexdigest(), said[1])


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Paths of the values that differ, as the spec writes them."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys((*one, *other)):
            # Fields of the spec are named as in the file.
            below = key if path in ("", "spec") and key != "spec" else f"{path}.{key}"
            below = "spec" if (path, key) == ("", "spec") else below
            yield from differences(one.get(key), other.get(key), below)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, theirs, f"{path}[{index}]")
    elif one != other:
        yield path


def markdown(content: dict[str, Any]) -> list[str]:
    """The part of a page that programs read."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return [f"Digest: `{digest(content)}`", "", OPENS, text, CLOSES]
