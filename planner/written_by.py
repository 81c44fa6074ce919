"""Which version wrote a file: said where a file of another version is no longer read."""

from __future__ import annotations

from importlib.metadata import version


def this_version() -> str:
    """The installed version of Wallplan."""
    return version("wallplan")


def written_by(version: object) -> str:
    """In words, which version wrote a file: what its own key says, None where it has none."""
    here = this_version()
    if not version:
        return f"written by an unknown version of wallplan, this is {here}"
    if version == here:
        return f"written by another state of wallplan {here}, or edited since"
    return f"written by wallplan {str(version)[:20]}, this is {here}"
