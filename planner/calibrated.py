"""The fitted constants that a question is answered with: the repository's, or those of the user's own file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.calibration import DEFAULT_ENGINE
from zoo.catalog import Catalog

from . import measurements
from .plan import Assumption, Plan
from .query import AnyQuery, ServeQuery
from .records import QueryError

if TYPE_CHECKING:
    from models import silicon


def constants_of(query: AnyQuery) -> Any:
    """`models.calibration.Calibration` of a serve question, `models.training_constants.Constants` of a training one.

    Raises QueryError, one line that names the key and the file, for a file that is none or is of the other kind.
    """
    kind, path = _kind(query), query.calibration_file
    if kind != "serving" and query.calibration.source is not None:
        raise QueryError(f"{query.locate(('calibration', 'source'))}: measured kernels are of serving, not of training steps")
    if path is None:
        return _stored(kind)
    try:
        return _read(kind, path, digest_of(query))
    except measurements.MeasurementsError as error:
        raise QueryError(f"{query.locate(('calibration',))}: {error}") from None


def tool_of(query: AnyQuery) -> silicon.Tool | None:
    """What has the measured kernels that a question asks for, None where it asks for none. Raises QueryError without it."""
    if query.calibration.source is None:
        return None
    from models import silicon  # hardly any question asks for it

    try:
        return silicon.aiconfigurator(silicon.backend_of(DEFAULT_ENGINE))
    except silicon.SiliconError as error:
        raise QueryError(f"{query.locate(('calibration', 'source'))}: {error}") from None


def digest_of(query: AnyQuery) -> str | None:
    """SHA-256 of the user's calibration file; None when the question takes the stored constants. Raises QueryError."""
    path = query.calibration_file
    if path is None:
        return None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise QueryError(f"{query.locate(('calibration',))}: {path}: cannot read: {error.strerror}") from None


def data_of(query: AnyQuery, catalog: Catalog, kinds: Iterable[str]) -> dict[str, str]:
    """What an answer was computed from: content hashes of these kinds of the catalogue, of the stored constants, and of the
    user's calibration if any; the version of the package with the measured kernels if any."""
    digest, tool = digest_of(query), tool_of(query)
    own = {"constants": _stored_digest(_kind(query))} | ({} if digest is None else {"calibration": digest})
    measured = {} if tool is None else {str(query.calibration.source): tool.package}
    return {kind: catalog.hash(kind) for kind in kinds} | own | measured


_OF_NO_CATALOG = ("constants", "calibration", "aiconfigurator")


def data_changed(query: AnyQuery, catalog: Catalog, saved: Mapping[str, str]) -> list[str]:
    """Of the data that a saved plan was computed from, the kinds that are different now."""
    now = data_of(query, catalog, (kind for kind in saved if kind not in _OF_NO_CATALOG))
    kinds = dict.fromkeys((*saved, *(kind for kind in now if kind != "constants")))  # older plans do not say their constants
    return [kind for kind in kinds if saved.get(kind) != now.get(kind)]


def older_constants(query: AnyQuery, saved: Plan) -> str:
    """That a saved plan was made with other stored constants than there are now, in a line; empty where it was not, as far as the
    plan says."""
    kind = _kind(query)
    now = str(_date(_stored(kind)))
    dates = [found[1] for a in saved.assumptions if (found := re.search(r"constants were fitted on ([\d-]+)", a.text))]
    other = saved.data["constants"] != _stored_digest(kind) if "constants" in saved.data else bool(dates) and dates[0] != now
    if not other:
        return ""
    when = f" (fitted on {dates[0]}, now on {now})" if dates and dates[0] != now else ""
    return (
        f"the {kind} model's constants have changed since the plan was made{when}: what is solved here follows today's; "
        "`wallplan solve` the question again to compare like with like"
    )


@cache
def _stored_digest(kind: str) -> str:
    """SHA-256 of the stored constants of a model."""
    return hashlib.sha256(repr(_stored(kind)).encode()).hexdigest()


def assumption(query: AnyQuery) -> Assumption:
    """Which constants the answer rests on: file, date of the fit, content hash."""
    kind, digest = _kind(query), digest_of(query)
    fitted = f"the {kind} model's constants were fitted on {_date(constants_of(query))}"
    if digest is None:
        return Assumption(text=f"{fitted}, to published measurements", source=f"models/data/{kind}_fit.md")
    text = f"{fitted}, the stored ones refined by the user's measurements (sha256 {digest[:12]})"
    return Assumption(text=text, source=f"query: calibration, {query.calibration.file}")


def _date(constants: Any) -> str:
    return str(constants.about.get("fitted_on", "an unknown day") if hasattr(constants, "about") else constants.date)


def _kind(query: AnyQuery) -> str:
    return "serving" if isinstance(query, ServeQuery) else "training"


def _stored(kind: str) -> Any:
    if kind == "serving":
        from models.calibration import stored_calibration

        return stored_calibration()
    from models.training_constants import training_constants  # a serve question does not need to read them

    return training_constants()


@cache
def _read(kind: str, path: Path, digest: str) -> Any:
    """A calibration by its content: `digest` makes a changed file another one."""
    return measurements.read(kind, path)
