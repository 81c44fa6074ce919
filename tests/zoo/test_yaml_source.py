"""YAML as people write it, and everything that is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.yaml_source import MAX_DEPTH, ZooError, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("NO", "NO"), ("y", "y"),
        ("true", True), ("True", True), ("false", False),
        ("null", None), ("~", None), ("", None),
        ("1e9", 1e9), ("1E9", 1e9), ("1.5e-3", 1.5e-3), ("15e12", 15e12), (".5", 0.5), ("5.", 5.0), ("+3", 3), ("-3", -3),
        ("012", 12), ("0o14", "0o14"), ("0x1F", "0x1F"), ("0b11", "0b11"), ("1_000", "1_000"),
        ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("2026-11-23", "2026-11-23"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z"),
        ("500 ms", "500 ms"), ("-7%", "-7%"), ("1.2.3", "1.2.3"), ("eu-west-1", "eu-west-1"),
        ('"true"', "true"), ("'12'", "12"), ("!!str 12", "12"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    read_value = parse(f"key: {text}\n").data["key"]
    assert read_value == value and type(read_value) is type(value)


def test_special_numbers() -> None:
    data = parse("a: .inf\nb: -.INF\nc: .nan\n").data
    assert data["a"] == float("inf") and data["b"] == float("-inf") and data["c"] != data["c"]


def test_lines_of_values() -> None:
    document = parse(
        "name: chat\nsla:\n  ttft:\n    p99: 500 ms\n\nregions:\n  - aws/us-east-1\n  - {cloud: gcp,\n     region: x}\n"
    )
    assert document.line(()) == 1
    assert document.line(("name",)) == 1
    assert document.line(("sla", "ttft", "p99")) == 4
    assert document.line(("regions", 0)) == 7
    assert document.line(("regions", 1, "region")) == 9
    assert document.line(("regions", 1, "region", "deeper")) == 9  # the nearest parent
    assert document.line(("missing",)) == 1


def test_anchors_and_merges() -> None:
    document = parse("base: &base {a: 1, b: 2}\none: {<<: *base, b: 3}\ntwo:\n  <<: [*base, {c: 4}]\nthree: *base\n")
    assert document.data["one"] == {"a": 1, "b": 3}
    assert document.data["two"] == {"a": 1, "b": 2, "c": 4}
    assert document.data["three"] == {"a": 1, "b": 2}


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "f.yaml: is empty"),
        ("   \n\n", "f.yaml: is empty"),
        ("# only a comment\n", "f.yaml:1: holds nothing"),
        ("- a\n- b\n", "f.yaml:1: holds a list"),
        ("just text", "f.yaml:1: holds a single value"),
        ("12", "f.yaml:1: holds a single value"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: key 'a' stands twice, first in line 1"),
        ("a:\n  b: 1\n  'b': 2\n", "f.yaml:3: key 'b' stands twice, first in line 2"),
        ("1: 2\n", "f.yaml:1: key 1 is not text"),
        ("true: 2\n", "f.yaml:1: key true is not text"),
        ("~: 2\n", "f.yaml:1: key null is not text"),
        ("? [a, b]\n: 2\n", "f.yaml:1: a list or mapping stands as a key"),
        ("a: 1\n\tb: 2\n", "f.yaml:2: a tab where YAML wants spaces"),
        ("a:\n\t- b\n", "f.yaml:2: a tab where YAML wants spaces"),
        ("a: [1\n", "f.yaml:2: is not valid YAML"),
        ("a: 'open\n", "is not valid YAML"),
        ("a: b: c\n", "f.yaml:1: is not valid YAML"),
        ("a: {b: 1]\n", "f.yaml:1: is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: a second document begins"),
        ("a: !!python/object/apply:os.system [ls]\n", "tag !!python/object/apply:os.system is not allowed"),
        ("a: !include x\n", "tag !include is not allowed"),
        ("a: *b\n", "f.yaml:1: alias *b has no anchor before it"),
        ("a: &a [*a]\n", "alias *a contains itself"),
        ("<<: 3\n", "'<<' merges mappings"),
        ("a: 1e999\n", "f.yaml:1: 1e999 is out of range"),
        ("a: " + "9" * 5000 + "\n", "f.yaml:1: a number of 5000 characters is out of range"),
        ("a: 1\nb: \x00\n", "f.yaml:2: is binary"),
        ("a: \x1b[31m\n", "f.yaml:1: is binary"),
        ("a: " + "[" * 2000 + "]" * 2000, f"f.yaml:1: is nested deeper than {MAX_DEPTH} levels"),
        ("a: " + "{b: " * 2000, f"nested deeper than {MAX_DEPTH} levels"),
        (bomb(9), "holds more than 100,000 values with its aliases written out"),
    ],
)  # fmt: skip
def test_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ZooError) as error:
        parse(text, "f.yaml")
    message = str(error.value)
    assert says in message
    assert message.startswith("f.yaml:") and "\n" not in message and len(message) < 250


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: 1\nb: \xff\xfe\n", ":2: is not UTF-8 text (byte 0xff)"),
        (b"\x7fELF\x02\x01\x01\x00" * 10, ":1: is binary"),
        (b"a: x\n" + b"# filler\n" * 200_000, "is larger than 1 MB"),
    ],
)
def test_files_that_are_no_yaml(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(ZooError) as error:
        read(path)
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_fifty_megabytes_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(ZooError, match="larger than 1 MB"):
        read(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="no such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(ZooError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(ZooError):
        read("nul\0byte")


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes("﻿a: é\r\nb: 2\r\n".encode())
    document = read(path)
    assert document.data == {"a": "é", "b": 2} and document.line(("b",)) == 2


def test_safe_within_limits() -> None:
    assert len(parse(bomb(4)).data["a3"]) == 10
    deep = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse(deep).data["a"] is not None
