"""Reads small inputs (spec, questions, chats) from a path, a bucket, https or the package."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from personaspace.errors import UserError
from personaspace.files import LARGE, SMALL, expanded, read_plain
from personaspace.s3.location import shown_url
from personaspace.study import builtin, checkpoint, containers, download, question_forms
from personaspace.study.question_forms import Asked


def shown(source: str) -> str:
    """A source for messages: an address without what may be a secret."""
    return shown_url(source) if source.startswith(download.SCHEME) else source


def read_bytes(
    source: str, folder: Path, limit: int = LARGE, *, sha256: str | None = None
) -> bytes:
    """Content of a source.

    Args:
        source: Path (relative to `folder`), `s3://bucket/key`, `https://…` or `builtin:NAME`.
        folder: Where relative paths start: the spec's own folder.
        limit: The most bytes that a file may have.
        sha256: Of the content; what comes by https must have one.

    Raises:
        UserError: Missing, unreadable, not a regular file or too large; names the source.
    """
    if source.startswith(download.SCHEME):
        if sha256 is None:
            raise UserError(f"{shown(source)}: only data sets, with their sha256, come by https")
        return download.read_download(source, sha256, checkpoint.cache_folder())
    if source.startswith(builtin.SCHEME):
        return builtin.resource(source).read_bytes()
    if source.startswith("s3://"):
        return _read_object(source)
    path = folder / expanded(source)
    try:
        return read_plain(path, limit)
    except FileNotFoundError:
        raise UserError(f"{source}: no such file (looked in {path.parent})") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from None


def _read_object(url: str) -> bytes:
    # Imported here: boto3 takes a while to load and most studies read files.
    from personaspace.s3.bucket import Bucket
    from personaspace.s3.location import parse_s3

    location = parse_s3(url)
    folder, _, name = location.prefix.rpartition("/")
    bucket = Bucket(dataclasses.replace(location, prefix=folder))
    try:
        found = bucket.read(name)
    finally:
        bucket.close()
    if found is None:
        raise UserError(f"{url}: no such object")
    return found[0]


def read_text(source: str, folder: Path) -> str:
    """Content of a source as UTF-8 text. Raises UserError if it is not."""
    return containers.as_text(source, read_bytes(source, folder, SMALL))


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent overwrite."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._seen_nodes: set[int] = set()
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node; what names by `*` make of few lines is counted as often as it is there."""
        named = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is None or id(node) in self._sizes:
            return node
        if named:
            raise yaml.composer.ComposerError(None, None, "holds itself", node.start_mark)
        inner = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        size = self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in inner)
        if size > _MOST_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"stands for more than {_MOST_NODES:,} values", node.start_mark
            )
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Looked at before `<<` brings in keys that the mapping's own may well override.
        if id(node) not in self._seen_nodes:
            self._seen_nodes.add(id(node))
            seen = set()
            for key_node, _ in node.value:
                key = _MERGE
                if key_node.tag != _MERGE:
                    key = self.construct_object(key_node, deep=True)
                if isinstance(key, str | int | float | bool) and key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"duplicate key {key!r}", key_node.start_mark
                    )
                seen.add(key if isinstance(key, str | int | float | bool) else id(key_node))
        super().flatten_mapping(node)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and "\0" in value:
            raise yaml.constructor.ConstructorError(
                None, None, "NUL is not a character", node.start_mark
            )
        if isinstance(value, str) and not value.isascii():
            try:
                # JSON writes characters beyond U+FFFF as two escapes; YAML leaves them apart.
                return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            except UnicodeDecodeError:
                raise yaml.constructor.ConstructorError(
                    None, None, "half of a surrogate pair is not a character", node.start_mark
                ) from None
        return value


def _plain_number(loader: _StrictLoader, node: yaml.ScalarNode) -> Any:
    """A number as JSON has it: of few digits, and not in sixties."""
    if ":" in node.value:
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"{node.value} would be read in sixties: write it in quotes",
            node.start_mark,
        )
    if len(node.value) > 30:
        raise yaml.constructor.ConstructorError(
            None, None, "a number of more than 30 digits", node.start_mark
        )
    if node.tag.endswith(":int"):
        value = loader.construct_yaml_int(node)
        if abs(value) < 2**63:
            return value
        raise yaml.constructor.ConstructorError(
            None, None, "a whole number of more than 64 bits", node.start_mark
        )
    return loader.construct_yaml_float(node)


for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _plain_number)
#: Values that a file may stand for, names by `*` counted as often as they are there.
_MOST_NODES = 1_000_000
_MERGE = "tag:yaml.org,2002:merge"


def parse_yaml(text: str, name: str) -> Any:
    """YAML (or JSON) text as plain values.

    Raises:
        UserError: Not YAML, or a key given twice; names line and column.
    """
    kind = "JSON" if name.partition("?")[0].endswith(".json") else "YAML"
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{name}: not valid {kind}: {error.problem}{where}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid {kind}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a date that is none, say
        raise UserError(f"{name}: not valid {kind}: {error}") from None


@dataclass(frozen=True)
class Questions:
    """A list of questions.

    Attributes:
        texts: In the order of their file.
        themes: The theme of each that has one.
    """

    texts: list[str]
    themes: dict[str, str]


def read_asked(source: list[str] | str, folder: Path, limit: int | None = None) -> Questions:
    """Questions from an inline list or a file, with their themes.

    A file ending in .txt holds one question a line; any other is YAML, JSON or JSON lines, in the
    forms of `question_forms`.

    Raises:
        UserError: Missing, empty, of no known form, or a question given twice.
    """
    if isinstance(source, list):
        name, asked = "questions", [Asked(text) for text in source]
    else:
        name, text = source, read_text(source, folder)
        if source.partition("?")[0].endswith(".txt"):
            asked = [Asked(line) for line in question_forms.from_lines(name, text)]
        elif question_forms.is_json_lines(name, text):
            asked = question_forms.from_value(name, question_forms.from_json_lines(name, text))
        else:
            asked = question_forms.from_value(name, parse_yaml(text, name))
    if not asked:
        said = "is empty" if isinstance(source, list) else f"{name}: a list of questions is needed"
        raise UserError(said)
    for number, each in enumerate(asked, 1):
        if not isinstance(each.text, str) or not each.text.strip():
            raise UserError(f"{name}: question {number} is not a text")
    seen: set[str] = set()
    for each in asked:
        if each.text in seen:
            raise UserError(f"{name}: {json.dumps(each.text)} is listed twice")
        seen.add(each.text)
    kept = asked[:limit]
    themes = {each.text: each.theme.strip() for each in kept if each.theme is not None}
    return Questions([each.text for each in kept], themes)


def read_questions(source: list[str] | str, folder: Path, limit: int | None = None) -> list[str]:
    """The texts of `read_asked`."""
    return read_asked(source, folder, limit).texts
