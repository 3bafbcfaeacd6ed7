"""Strict reading of the YAML that people write.

Every complaint names file and line, and the nearest valid word. A key that nobody asked for is an
error: a misspelt margin must not silently become no margin.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from farm.errors import ConfigError, nearest_hint

MAX_BYTES = 1 << 20
MAX_NUMBER = 1e15
_ENV = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")

Choice = TypeVar("Choice", bound=StrEnum)


class Table:
    """One YAML mapping that remembers where each key stands and which keys were asked for."""

    def __init__(self, path: Path, node: yaml.MappingNode) -> None:
        self.path = path
        self._node = node
        self._entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        self._asked: set[str] = set()
        for key_node, value_node in node.value:
            key = self._scalar(key_node, str, "a word")
            if key in self._entries:
                raise self.error(f"duplicate key '{key}'", node=key_node)
            self._entries[key] = (key_node, value_node)

    def keys(self) -> tuple[str, ...]:
        """The keys in the order written."""
        return tuple(self._entries)

    def has(self, key: str) -> bool:
        """Whether a key is there; asking makes it a known one."""
        self._asked.add(key)
        return key in self._entries

    def error(
        self, message: str, *, key: str | None = None, node: yaml.Node | None = None, hint: str = ""
    ) -> ConfigError:
        """A complaint about this table, about one of its keys, or about a node of it."""
        if node is None:
            node = self._entries[key][0] if key in self._entries else self._node
        return ConfigError(f"{self.path}:{node.start_mark.line + 1}: {message}", hint=hint)

    def text(self, key: str, default: str | None = None) -> str:
        """A word or sentence; `${env:NAME}` inside it is replaced."""
        value = self._take(key, str, "text", default)
        return _ENV.sub(lambda match: self._variable(match[1], key), value)

    def written(self, key: str) -> str:
        """A single value as it is written, be it a word or a number; with `${env:NAME}`."""
        node = self._node_of(key, required=True)
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise self.error("expected a word or a number", key=key)
        return _ENV.sub(lambda match: self._variable(match[1], key), node.value)

    def secret(self, key: str) -> str:
        """A text that only the environment may hold, written `${env:NAME}`."""
        if not _ENV.fullmatch(self._take(key, str, "text", None)):
            hint = f"write '{key}: ${{env:NAME}}' and export NAME before the command"
            raise self.error(f"'{key}' is a secret and must not stand here", key=key, hint=hint)
        return self.text(key)

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        value: int = self._take(key, int, "a whole number", default)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._take(key, (int, float), "a number", default)
        if not -MAX_NUMBER <= value <= MAX_NUMBER:  # refuses NaN as well
            raise self.error(f"'{key}' is out of range", key=key)
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value: bool = self._take(key, bool, "true or false", default)
        return value

    def choice(self, key: str, kind: type[Choice], default: Choice | None = None) -> Choice:
        """One word of a closed set."""
        return self._one_of(self._take(key, str, "a word", default), kind, key)

    def choices(self, key: str, kind: type[Choice]) -> tuple[Choice, ...]:
        """Several words of a closed set."""
        return tuple(self._one_of(word, kind, key) for word in self.texts(key))

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of words."""
        if self._node_of(key, required=default is None) is None:
            return default or ()
        words: list[str] = []
        for item in self._items(key):
            words.append(self._scalar(item, str, "a word"))
            if words[-1] in words[:-1]:
                raise self.error(f"'{words[-1]}' stands twice in '{key}'", node=item)
        return tuple(words)

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of whole numbers."""
        return (
            tuple(self._scalar(item, int, "a whole number") for item in self._items(key)) or default
        )

    def day(self, key: str) -> date:
        """A date, written 2026-12-31."""
        node = self._node_of(key, required=True)
        value = self._scalar(node, date, "a date such as 2026-12-31") if node else date.min
        return value.date() if isinstance(value, datetime) else value

    def list_of_tables(self, key: str) -> Iterable[Table]:
        """A list whose entries are mappings; an absent one is empty."""
        for item in self._items(key):
            if not isinstance(item, yaml.MappingNode):
                raise self.error(f"an entry of '{key}' must be a table of keys", node=item)
            yield Table(self.path, item)

    def text_with(self, values: Mapping[str, str]) -> str:
        """The whole file's text with keys of this table set; the rest stays as people wrote it.

        Raises:
            ConfigError: the table is not written in lines; the hint tells what to write.
        """
        if self._node.flow_style or not self._node.value:
            lines = "; ".join(f"{key}: {value}" for key, value in values.items())
            raise self.error("cannot be changed where it is written in one line", hint=lines)
        text = _read_text(self.path).splitlines(keepends=True)
        indent, first = " " * self._node.start_mark.column, self._node.start_mark.line
        for key, value in values.items():
            if key in self._entries:
                text[self._entries[key][0].start_mark.line] = f"{indent}{key}: {value}\n"
        added = [f"{indent}{key}: {v}\n" for key, v in values.items() if key not in self._entries]
        return "".join([*text[:first], *added, *text[first:]])

    def table(self, key: str) -> Table:
        """A mapping inside this one; an absent one reads as empty, and lacks what it must have."""
        node = self._node_of(key, required=False)
        if node is None:
            return Table(self.path, yaml.MappingNode("", [], self._node.start_mark))
        if not isinstance(node, yaml.MappingNode):
            raise self.error(f"'{key}' must be a table of keys", node=node)
        return Table(self.path, node)

    def tables(self) -> Iterable[tuple[str, Table]]:
        """Every key with the mapping under it, for tables whose keys are names."""
        for key in self._entries:
            inner = self.table(key)
            assert inner is not None
            yield key, inner

    def done(self) -> None:
        """Complain about the first key that nobody asked for."""
        for key in self._entries:
            if key not in self._asked:
                raise self.error(
                    f"unknown key '{key}'", key=key, hint=nearest_hint(key, self._asked)
                )

    def _items(self, key: str) -> list[yaml.Node]:
        node = self._node_of(key, required=False)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(f"'{key}' must be a list", node=node)
        return list(node.value)

    def _node_of(self, key: str, *, required: bool) -> yaml.Node | None:
        self._asked.add(key)
        if key in self._entries:
            return self._entries[key][1]
        if not required:
            return None
        close = difflib.get_close_matches(key, set(self._entries) - self._asked, n=1)
        if close:  # a misspelt key is more likely than a forgotten one
            hint = f"did you mean '{key}'?"
            raise self.error(f"unknown key '{close[0]}'", key=close[0], hint=hint)
        raise self.error(f"'{key}' is missing")

    def _take(self, key: str, kind: Any, name: str, default: Any) -> Any:
        node = self._node_of(key, required=default is None)
        return default if node is None else self._scalar(node, kind, name)

    def _scalar(self, node: yaml.Node, kind: Any, name: str) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(f"expected {name}", node=node)
        value = _construct(node)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            hint = f'write "{node.value}" in quotes' if kind is str and node.value else ""
            raise self.error(f"expected {name}, found {node.value!r}", node=node, hint=hint)
        return value

    def _one_of(self, word: str, kind: type[Choice], key: str) -> Choice:
        try:
            return kind(word)
        except ValueError:
            raise self.error(
                f"unknown {key} '{word}'", key=key, hint=nearest_hint(word, list(kind))
            ) from None

    def _variable(self, name: str, key: str) -> str:
        if name not in os.environ:
            hint = nearest_hint(name, os.environ, otherwise=f"export {name} before the command")
            raise self.error(f"environment variable {name} is not set", key=key, hint=hint)
        return os.environ[name]


def _construct(node: yaml.ScalarNode) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except Exception:  # a tag that does not fit, such as !!bool x, makes PyYAML raise anything
        return None
    finally:
        loader.dispose()


def read_document(path: Path, schema: str) -> Table:
    """Read a YAML file whose `schema` key must name what was expected.

    Raises:
        ConfigError: it cannot be read, is no YAML, is not a mapping, is empty, or is another
            kind of document.
    """
    table = Table(path, _compose(path, _read_text(path)))
    found = table.text("schema", default="")
    if found != schema:
        raise table.error(
            f"expected a document of schema {schema}, found {found or 'none'}",
            key="schema",
            hint=f"begin the file with 'schema: {schema}'",
        )
    return table


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}:1: {len(data)} bytes is too long for a document like this")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x})",
            hint="save the file as UTF-8",
        ) from error


def _compose(path: Path, text: str) -> yaml.MappingNode:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem or 'not YAML'}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        character = ord(text[error.position])
        raise ConfigError(
            f"{path}:{line}: the control character #x{character:04x} cannot stand here"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}:1: nested too deeply") from error
    if node is None:
        raise ConfigError(f"{path}:1: the file is empty")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{path}:{node.start_mark.line + 1}: expected keys with values, found "
            f"{'a list' if isinstance(node, yaml.SequenceNode) else 'a single value'}"
        )
    return node
