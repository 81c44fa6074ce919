"""Names: one canonical name per record, many spellings, and the nearest one when none fits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from .errors import UnknownName

_SEPARATORS = re.compile(r"[^a-z0-9+]+")


def normalise(name: str) -> str:
    """The letters and digits of a name: case, spaces, dashes, dots, slashes and underscores do not tell names apart."""
    return _SEPARATORS.sub("", name.lower())


class Index:
    """Canonical names of one kind of record, found by any of their spellings.

    A spelling that two records share belongs to neither: it is reported as ambiguous. A canonical name always
    means its own record, whatever aliases others carry.
    """

    def __init__(self, kind: str, spellings: Mapping[str, Iterable[str]], suffixes: tuple[str, ...] = ()) -> None:
        """`spellings` maps canonical names to aliases; `suffixes` may be left out or added by the person who asks."""
        self.kind = kind
        self._suffixes = tuple(normalise(s) for s in suffixes)
        self._names = {name: name for name in spellings}
        self._spellings: dict[str, tuple[str, ...]] = {}
        self._exact: dict[str, tuple[str, ...]] = {}
        for name, aliases in spellings.items():
            for alias in aliases:
                for table, key in ((self._spellings, normalise(alias)), (self._exact, alias.lower())):
                    known = table.get(key, ())
                    if name not in known:
                        table[key] = (*known, name)
        for name in spellings:
            self._spellings[normalise(name)] = self._exact[name.lower()] = (name,)

    def find(self, name: str) -> str:
        """The canonical name meant by `name`. Raises UnknownName."""
        if name in self._names:
            return name
        key = normalise(name) if isinstance(name, str) else ""
        found = self._exact.get(str(name).lower()) or self._spellings.get(key, ())
        for suffix in self._suffixes:
            if not found and key.endswith(suffix):
                found = self._spellings.get(key[: -len(suffix)], ())
        if len(found) == 1:
            return found[0]
        if found:
            more = f" (and {len(found) - 5} more)" if len(found) > 5 else ""
            raise UnknownName(f"{self.kind} {_shown(name)} is ambiguous: {listed(found[:5])}{more}?")
        nearest = self.nearest(name)
        hint = f"; did you mean {listed(nearest)}?" if nearest else ""
        raise UnknownName(f"unknown {self.kind} {_shown(name)}{hint}")

    def nearest(self, name: str, count: int = 3) -> tuple[str, ...]:
        """Up to `count` canonical names that resemble `name`, the nearest first."""
        key = normalise(str(name))
        if not key:
            return ()
        close = difflib.get_close_matches(key, list(self._spellings), n=4 * count, cutoff=0.6)
        close += sorted((s for s in self._spellings if len(key) >= 3 and key in s), key=len)
        close += sorted((s for s in self._spellings if len(s) >= 4 and s in key), key=len, reverse=True)
        names = dict.fromkeys(canonical for spelling in close for canonical in self._spellings[spelling])
        return tuple(names)[:count]


def nearest(word: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known word that looks most like `word`, whatever the case of its letters, or "".

    A word of less than half the letters of the other is near only as a part of it: the letters of many a short word stand
    somewhere in a long one ("region" in "disaggregation").
    """
    asked = str(word)[:60].lower()
    lowered = {name.lower(): name for name in reversed(list(known))}
    close = difflib.get_close_matches(asked, list(lowered), n=max(len(lowered), 1), cutoff=cutoff)
    return next((lowered[one] for one in close if _alike_in_length(asked, one)), "")


def _alike_in_length(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return 2 * len(short) >= len(long) or short in long


def listed(names: Iterable[str]) -> str:
    """'a', 'b' or 'c'."""
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _shown(name: object) -> str:
    text = str(name).replace("\n", " ")
    return f"'{text[:60]}{'...' if len(text) > 60 else ''}'"
