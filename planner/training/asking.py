"""Many questions that differ little, each answered by its proven optimum: what every explanation is made of.

What such questions have in common is kept: the catalogue, offers grouped into families, and the best layouts that searches
have found. An answer never depends on what was asked before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from datetime import date

from zoo.catalog import Catalog

from ..prepare import open_catalog
from ..query import TrainQuery
from ..records import OutOfTime
from .figures import OF_JOBS, OF_STEPS, OF_TIMES, scaled_catalog, scaled_question
from .market import Column, Family, Market, Memory, chip_searched, families_of, market_of, moved_families
from .question import Question, question_of
from .search import Over, never

# Relative safety of bounds that are taken over from another world.
_MARGIN = 1e-4

Progress = Callable[[str], None]
Scales = tuple[tuple[str, float], ...]  # figures of the world (`figures.FIGURES`) and their factors


@dataclass(slots=True)
class Asker:
    """Answers questions that start `today` where they do not say when.

    counts: tried beside the grid of counts, always; lead: (offer, accelerators) that is likely the best, searched first;
    over: once it is true, whatever has not been answered raises OutOfTime; chip: the only one whose figures and prices are
    scaled where figures of the world are, None: every one's are.
    """

    today: date
    progress: Progress = lambda _: None
    counts: frozenset[int] = frozenset()
    lead: tuple[str, int] | None = None
    over: Over = never
    chip: str | None = None
    catalogs: dict[Hashable, Catalog] = field(default_factory=dict)
    steps: dict[Hashable, Memory] = field(default_factory=dict)
    families: dict[Hashable, list[Family]] = field(default_factory=dict)
    alike: dict[Hashable, list[Family]] = field(default_factory=dict)  # families of questions about the same job

    def question(self, query: TrainQuery, scales: Scales = ()) -> Question:
        """The question in a world whose figures are scaled. Raises QueryError as `question_of` does."""
        files = (query.folder, query.zoo, query.prices)
        if (files, ()) not in self.catalogs:
            self.catalogs[files, ()] = open_catalog(query)
        if (files, scales) not in self.catalogs:
            self.catalogs[files, scales] = scaled_catalog(self.catalogs[files, ()], dict(scales), self.chip)
        return scaled_question(question_of(query, self.today, self.catalogs[files, scales]), dict(scales))

    def market(
        self, question: Question, scales: Scales = (), first: bool = False, counts: Collection[int] | None = None,
        slack: float = 1.0,
    ) -> Market:  # fmt: skip
        """The market of a question that `question` gave for these scales."""
        counts, memory = self.counts if counts is None else counts, self.memory(question, scales)
        families = self.families_of(question, scales)
        market = market_of(question, self.progress, memory, first, families, counts, self.lead, slack, self.over)
        if market.unsearched is not None:
            raise OutOfTime
        return market

    def families_of(self, question: Question, scales: Scales = ()) -> list[Family]:
        """Its offers, by kinds of machines that fail alike."""
        query = question.query
        of_offers = tuple(scale for scale in scales if scale[0] not in OF_JOBS)
        rest = (query.folder, query.zoo, query.calibration_file, _what_families_depend_on(question))
        today, names = self.families.get(((), *rest)), {name for name, _ in of_offers}
        if (of_offers, *rest) not in self.families:
            if today is not None and names <= OF_STEPS:
                self.families[of_offers, *rest] = moved_families(question, today, "host bandwidth" not in names)
            else:
                of_steps = tuple(scale for scale in of_offers if scale[0] in OF_STEPS)
                like = self.alike.setdefault((of_steps, *rest[:-1], _what_machines_depend_on(question)), [])
                self.families[of_offers, *rest] = families_of(question, Market(question, []), like)
                like += self.families[of_offers, *rest]
        return self.families[of_offers, *rest]

    def memory(self, question: Question, scales: Scales = ()) -> Memory:
        """What searches for layouts have found in this world, or what follows from those in the world as it is.

        A step whose chip is faster in one figure by a factor is at most that much shorter: times are sums, maxima and norms of
        parts each of which is. So where no layout took less than t, none takes less than t / factor (tests look at all layouts;
        `_MARGIN` is far above what rounding or an overlap that gets worse could make of it).
        """
        query = question.query
        files = query.folder, query.zoo, query.calibration_file
        of_steps = tuple(scale for scale in scales if scale[0] in OF_STEPS)
        if (*files, of_steps) not in self.steps:
            known = self._others(self.steps.get((*files, ()), {})) if of_steps else {}
            if len(of_steps) == 1 and of_steps[0][0] in OF_TIMES and of_steps[0][1] >= 1:
                shorter = of_steps[0][1] * (1 + _MARGIN)
                for key, (within, found) in self.steps.get((*files, ()), {}).items():
                    known.setdefault(key, ((within if found is None else found.ranked) / shorter, None))
            self.steps[*files, of_steps] = known
        return self.steps[*files, of_steps]

    def _others(self, today: Memory) -> Memory:
        """Of what is known of the world as it is: what holds in every other, of machines of chips that are not scaled."""
        return {} if self.chip is None else {key: one for key, one in today.items() if chip_searched(key) != self.chip}

    def best(self, query: TrainQuery, scales: Scales = ()) -> Column | None:
        """The best column of a question; None where it has none. Raises QueryError as `question_of` does."""
        return self.market(self.question(query, scales), scales).best


def _what_families_depend_on(question: Question) -> str:
    """Everything in a question that `families_of` looks at: not how much is trained, nor how much of anything there may be."""
    data = question.query.to_dict()
    quota = [
        {key: value for key, value in quota.items() if key not in ("chips", "instances")}
        for quota in data.get("supply", {}).get("quota", ())
    ]
    said = {
        "machines": _what_machines_depend_on(question),
        "minimize": question.query.minimize,
        "limits": sorted(data.get("limits", {})),
        "quota": quota,
        "offers": [offer.name for offer in question.offers],
    }
    return json.dumps(said, sort_keys=True, default=str)


def _what_machines_depend_on(question: Question) -> str:
    """Of that what is not about offers: the job, its layouts, and the figures of the world."""
    data = question.query.to_dict()
    said = {key: data[key] for key in ("workload", "parallelism", "fabric", "carbon", "rank", "prices") if key in data}
    said["workload"] = {key: value for key, value in said["workload"].items() if key not in ("tokens", "compute")}
    return json.dumps(said | {"given": question.task.given}, sort_keys=True, default=str)
