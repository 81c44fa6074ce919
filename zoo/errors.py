"""What goes wrong in data: always one line, phrased for the person who can repair it."""

from __future__ import annotations


class ZooError(ValueError):
    """A data file, record or overlay that cannot be used. The message is one clear line."""


class UnknownName(ZooError):
    """A name that no record has; the message offers the nearest ones."""
