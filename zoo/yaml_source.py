"""YAML as people write it, read strictly: every value with its line, every fault as one line.

The rules are those of YAML 1.2: `no`, `on` and `yes` are text, only `true` and `false` are booleans, `1e9` is a
number, `012` is twelve, `1:30` is text, dates stay text. Keys are text and stand once per mapping. Anchors, aliases
and merges (`<<`) work, within limits. The document is built from parser events in one loop, so depth and size are
bounded before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ZooError

__all__ = ["Document", "ZooError", "parse", "read"]

Keys = tuple[str | int, ...]

# Far above any honest file, far below what hurts: a megabyte of YAML takes seconds to read.
MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 100_000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_BINARY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_MERGE = "<<"


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: `data` in plain Python, and where each part of it stands."""

    path: str
    data: dict[str, Any]
    lines: dict[Keys, int] = field(repr=False)

    def line(self, keys: Keys = ()) -> int:
        """The line (from 1) of the value at `keys`; of its nearest known parent when it is not in the file."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def read(path: Path | str) -> Document:
    """The document in the file `path`. Raises ZooError, one line naming the file and the line of the fault."""
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ZooError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ZooError(f"{name}: is a folder, expected a YAML file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ZooError(f"{name}: cannot be read ({reason})") from None
    if len(content) > MAX_BYTES:
        raise ZooError(f"{name}: is larger than {MAX_BYTES // 1_000_000} MB, the limit for a YAML file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ZooError(f"{name}:{line}: is not UTF-8 text (byte 0x{content[error.start]:02x})") from None
    return parse(text, name)


def parse(text: str, name: str = "<text>") -> Document:
    """The document in `text`; `name` stands for the file in messages. Raises ZooError."""
    binary = _BINARY.search(text)
    if binary:
        line = text.count("\n", 0, binary.start()) + 1
        raise ZooError(f"{name}:{line}: is binary, not YAML text (character 0x{ord(binary.group()):02x})")
    if not text.strip():
        raise ZooError(f"{name}: is empty, expected keys and values")
    builder = _Builder(name)
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if "nesting depth" in str(error):  # libyaml reads ahead, and newer ones have a limit of their own
            raise ZooError(f"{name}:{mark.line + 1 if mark else 1}: is nested deeper than {MAX_DEPTH} levels") from None
        raise ZooError(_syntax(name, text, error)) from None
    data = builder.result
    if not isinstance(data, dict):
        kind = "nothing" if data is None else "a list" if isinstance(data, list) else "a single value"
        line = builder.lines.get((), 1)
        raise ZooError(f"{name}:{line}: holds {kind}, expected keys and values such as 'name: chat'")
    return Document(name, data, builder.lines)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _events(text: str) -> Iterator[yaml.Event]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _syntax(name: str, text: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = (mark.line if mark else 0) + 1
    lines = text.splitlines()
    around = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in around[: len(around) - len(around.lstrip())] or re.match(r"[^#'\"]*:\s*\t|-\t", around):
        return f"{name}:{line}: a tab where YAML wants spaces"
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML").replace("\n", " ")
    context = str(getattr(error, "context", None) or "").replace("\n", " ")
    return f"{name}:{line}: is not valid YAML ({', '.join(part for part in (context, problem) if part)})"


@dataclass(slots=True)
class _Frame:
    """A list or mapping under construction."""

    keys: Keys
    value: Any
    line: int
    anchor: str | None
    values: int = 1  # with aliases written out
    key: str | None = None
    has_key: bool = False
    merged: dict[str, Any] = field(default_factory=dict)


class _Builder:
    """Builds plain Python from parser events, without recursion."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.result: Any = None
        self.lines: dict[Keys, int] = {}
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        self._values = 0
        self._documents = 0

    def fail(self, line: int, message: str) -> ZooError:
        return ZooError(f"{self.name}:{line}: {message}")

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self.fail(_line(event), "a second document begins, expected one per file")
        elif isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event), event, event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._close(event)

    def _keys(self) -> Keys:
        """Where the next value goes."""
        if not self._frames:
            return ()
        frame = self._frames[-1]
        if isinstance(frame.value, list):
            return (*frame.keys, len(frame.value))
        return (*frame.keys, frame.key) if frame.has_key and frame.key is not None else frame.keys

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        line = _line(event)
        if self._frames and isinstance(self._frames[-1].value, dict) and not self._frames[-1].has_key:
            raise self.fail(line, "a list or mapping stands as a key, expected text")
        if len(self._frames) >= MAX_DEPTH:
            raise self.fail(line, f"is nested deeper than {MAX_DEPTH} levels")
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise self.fail(line, f"tag {_tag(event.tag)} is not allowed")
        if event.anchor:
            self._anchors[event.anchor] = None
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._frames.append(_Frame(self._keys(), value, line, event.anchor))

    def _close(self, event: yaml.Event) -> None:
        frame = self._frames.pop()
        value = frame.value
        if frame.merged:
            value = {**frame.merged, **value}
        self._add(value, event, frame.anchor, frame.values, frame.line)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line = _line(event)
        if event.anchor not in self._anchors:
            raise self.fail(line, f"alias *{event.anchor} has no anchor before it")
        known = self._anchors[event.anchor]
        if known is None:
            raise self.fail(line, f"alias *{event.anchor} contains itself")
        self._add(known[0], event, None, known[1])

    def _add(self, value: Any, event: yaml.Event, anchor: str | None, values: int, line: int | None = None) -> None:
        line = _line(event) if line is None else line
        if values > MAX_VALUES or (self._frames and self._frames[-1].values + values > MAX_VALUES):
            raise self.fail(line, f"holds more than {MAX_VALUES:,} values with its aliases written out")
        if anchor:
            self._anchors[anchor] = (value, values)
        if not self._frames:
            self.result = value
            self.lines.setdefault((), line)
            return
        frame = self._frames[-1]
        frame.values += values
        if isinstance(frame.value, list):
            self.lines[(*frame.keys, len(frame.value))] = line
            frame.value.append(value)
        elif not frame.has_key:
            self._key(frame, value, event, line)
        else:
            self._value(frame, value, line)

    def _key(self, frame: _Frame, value: Any, event: yaml.Event, line: int) -> None:
        if not isinstance(value, str):
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)[:40]
            raise self.fail(line, f"key {shown} is not text, expected a name (quote it if it is meant)")
        if value in frame.value:
            first = self.lines[(*frame.keys, value)]
            raise self.fail(line, f"key {value[:60]!r} stands twice, first in line {first}")
        frame.key, frame.has_key = value, True
        if value != _MERGE:
            self.lines[(*frame.keys, value)] = line
            frame.value[value] = None

    def _value(self, frame: _Frame, value: Any, line: int) -> None:
        key, frame.has_key = frame.key, False
        if key != _MERGE:
            frame.value[key] = value
            return
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self.fail(line, "'<<' merges mappings, expected an alias such as *base")
        for part in reversed(parts):
            frame.merged.update(part)

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        line = _line(event)
        if event.tag in ("!", "tag:yaml.org,2002:str"):
            return event.value
        if event.tag is not None:
            raise self.fail(line, f"tag {_tag(event.tag)} is not allowed")
        if not event.implicit[0]:  # quoted or a block of text
            return event.value
        return self._plain(event.value, line)

    def _plain(self, text: str, line: int) -> Any:
        if text in _NULL:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if text.lower() in _SPECIAL:
            return float(_SPECIAL[text.lower()])
        if len(text) > 400 and _FLOAT.fullmatch(text):
            raise self.fail(line, f"a number of {len(text)} characters is out of range")
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                raise self.fail(line, f"{text} is out of range")
            return number
        return text


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
