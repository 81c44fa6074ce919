"""The whole planner against brute force on small random worlds: same optimum, same infeasibility, with either solver.

The oracle shares no code with the planner. It lists layouts and batches itself, asks the forward models (serving,
operations) what each of them does, and tries every number of machines of every offer, split into pools in every way. The
objective has to be equal as an integer in the program's own units, not within a tolerance.

What the oracle takes over is only what the planner states about its space: tensor degrees divide the heads and stay in
reach of the link, replicas fill machines or span a whole number of at most eight, batches are those of the grid stated in
`planner/space.py` and the largest that keeps TPOT, replicas that read prompts stand beside others that decode in full units
of one, two, four or eight machines with at most eight replicas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import pytest
from worlds import PLACES, Case, Quota, case_of

from models import algorithm, operations, serving
from models.calibration import serving_constants
from planner import prepare as preparing
from planner.evaluate import evaluate
from planner.solve import decisions_of
from zoo.catalog import Catalog
from zoo.specs import Accelerator, Offer
from zoo.units import Q


def up(value: float) -> int:
    return math.ceil(value - 1e-9 * max(1.0, abs(value)))


def down(value: float) -> int:
    return math.floor(value + 1e-9 * max(1.0, abs(value)))


@dataclass
class Oracle:
    """Everything that can be bought in a case, by enumeration."""

    case: Case
    catalog: Catalog
    units: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    known: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)
    reached: dict[tuple[str, tuple[int, ...]], tuple[tuple[float, Any], ...] | None] = field(default_factory=dict)

    # ---- what a machine can run

    def runs(self, offer: Offer) -> dict[int, np.ndarray]:
        """span in machines -> every unit of so many machines: rows of UNIT, times in seconds."""
        kind = f"{offer.accelerator} {offer.accelerators} {offer.domain}"
        if kind not in self.units:
            self.units[kind] = self._runs(offer)
        return self.units[kind]

    def _runs(self, offer: Offer) -> dict[int, np.ndarray]:
        case, chip = self.case, self.catalog.chips[offer.accelerator]
        constants = serving_constants(chip)
        candidates = []
        for weights, cache in self.formats():
            computes = algorithm.computes_in(weights)
            if computes not in chip.peak:
                continue
            for tensor, pipeline, expert in self.degrees(offer, chip):
                candidates.extend(
                    (algorithm.bytes_per_element(weights).m_as("byte"), algorithm.bytes_per_element(cache).m_as("byte"),
                     chip.peak[computes].m_as("flop/s"), constants.compute_efficiency[computes], tensor, pipeline, expert, k)
                    for k in self.drafted(tensor, pipeline)
                )  # fmt: skip
        if not candidates:
            return {}

        def run(rows: list[tuple[float, ...]]) -> serving.Replica:
            columns = np.array(rows, float).T
            layouts = serving.Layouts(
                Q(columns[0], "byte"), Q(columns[1], "byte"), Q(columns[2], "flop/s"), *columns[3:7], columns[8]
            )  # fmt: skip
            draft = None
            if case.speculative is not None:
                work = None if case.draft is None else serving.work_of(case.draft, self.traffic(), layouts.kv_bytes)
                draft = serving.Draft(columns[7], case.speculative[1], work, case.speculative[0])
            return serving.replica(case.model, chip, layouts, self.links(chip, offer), self.traffic(), constants, None, draft)

        ranks = np.array([max(c[6] / c[4], 1.0) for c in candidates])  # attention ranks, each an engine of its own
        largest = np.minimum(run([(*c, 1.0) for c in candidates]).largest_batch, constants.largest_batch * ranks).astype(int)
        rows = [(*c, float(b)) for c, most in zip(candidates, largest, strict=True) for b in range(1, most + 1)]
        if not rows:
            return {}
        every = run(rows)
        found: dict[int, list[np.ndarray]] = {}
        if "none" in case.disaggregation:
            high = case.rank == "pessimistic"
            tpot = (every.tpot_high if high else every.tpot).m_as("ms")
            times = (
                (every.prefill_time_high, every.first_token_delay_high, every.residence_high) if high
                else (every.prefill_time, every.first_token_delay, every.residence)
            )  # fmt: skip
            seconds = [time.m_as("s") for time in times]
            for i in self.kept(rows, tpot, dict(zip(candidates, largest, strict=True))):
                chips = int(max(rows[i][4], rows[i][6]) * rows[i][5])
                span = max(1, chips // offer.accelerators)
                many = span * offer.accelerators // chips
                unit = [many * rows[i][5], many * rows[i][-1], *(s[i] for s in seconds)]
                found.setdefault(span, []).append(np.array([unit]))
        if "pools" in case.disaggregation:
            for span, some in self.apart(offer, rows, every, candidates, largest):
                found.setdefault(span, []).append(some)
        return {span: np.unique(np.concatenate(some), axis=0) for span, some in found.items()}

    def kept(self, rows: list[tuple[float, ...]], tpot: np.ndarray, most_of: dict[Any, int]) -> list[int]:
        """Positions of rows that keep TPOT: of each layout the batches of the grid, the largest that keeps it, the largest."""
        good = [i for i, time in enumerate(tpot) if self.case.tpot is None or time <= self.case.tpot]
        last: dict[Any, float] = {}
        for i in good:
            last[rows[i][:-1]] = max(last.get(rows[i][:-1], 0), rows[i][-1])
        return [i for i in good if rows[i][-1] in GRID or rows[i][-1] in (last[rows[i][:-1]], most_of[rows[i][:-1]])]

    def apart(
        self, offer: Offer, rows: list[tuple[float, ...]], every: serving.Replica, candidates: list[Any], largest: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Units in which some replicas only read prompts and the others only decode: every pair, every split of every span."""
        chip, n = self.catalog.chips[offer.accelerator], offer.accelerators
        constants = serving_constants(chip)
        high = self.case.rank == "pessimistic"
        token, first = serving.slowness(self.case.model, chip, constants, unmeasured=True) if high else (1.0, 1.0)
        most_of = dict(zip(candidates, largest, strict=True))
        yields = np.broadcast_to(every.tokens_per_step, len(rows))
        steps = every.decode_step.m_as("s") / yields
        decoding = self.kept(rows, 1000 * token * steps, most_of)
        top: dict[Any, float] = {}
        for i in decoding:
            top[rows[i][:-1]] = max(top.get(rows[i][:-1], 0), rows[i][-1])
        decoding = [i for i in decoding if rows[i][-1] > top[rows[i][:-1]] / 2]
        reading = [i for i, row in enumerate(rows) if row[-1] == 1 and most_of[row[:-1]] >= 2 * row[5]]
        links, device = self.links(chip, offer), serving.device_of(chip)
        inside = (chip.link_bandwidth is not None and chip.scale_up_domain > 1) or chip.host_bandwidth is not None
        size = [int(max(row[4], row[6]) * row[5]) for row in rows]
        found: list[tuple[int, ...]] = []
        splits: dict[tuple[int, int], list[tuple[int, int, int, bool]]] = {}
        for r, d in itertools.product(reading, decoding):
            sizes = size[r], size[d]
            if (rows[r][:3], rows[r][7]) != (rows[d][:3], rows[d][7]) or max(sizes) % min(sizes):
                continue  # other number formats or drafts, or replicas that would straddle machines
            if sizes not in splits:
                every_way = itertools.product((1, 2, 4, 8), range(1, 8), range(1, 8))
                full = [(span, a, b) for span, a, b in every_way if a + b <= 8 and a * sizes[0] + b * sizes[1] == span * n]
                near = [span * n <= max(n, offer.domain) for span, _, _ in full]
                linked = [inside if close else chip.nic_bandwidth is not None for close in near]
                splits[sizes] = [(*way, close) for way, close, fine in zip(full, near, linked, strict=True) if fine]
            found += [(r, d, *way) for way in splits[sizes]]
        if not found:
            return
        r, d, spans, a, b, near = np.array(found, int).T
        speed = serving.transfer_bandwidth(links, device, constants, near.astype(bool))
        sent = serving.transfer_time(every.prompt_cache[r], every.prompt_cache[d], a, b, speed)
        stages, batch = every.layouts.pipeline_parallel, every.layouts.batch
        unit = serving.apart(
            every.prefill_time[r], every.dispatch[r], sent, every.decode_step[d], float(self.case.tokens[1]),
            a * stages[r], b * batch[d], token, first, yields[d],
        )  # fmt: skip
        seconds = [time.m_as("s") for time in (unit.prefill_time, unit.delay, unit.residence)]
        table = np.stack([unit.servers, unit.slots, *seconds], axis=1)
        for span in set(spans.tolist()):
            yield span, table[spans == span]

    def formats(self) -> Iterator[tuple[str, str]]:
        for weights in self.case.precision:
            for cache in self.case.kv_precision or (("fp16",) if weights == "fp16" else ("bf16",)):
                if self.case.quality is not None:
                    lost = {name: algorithm.quality_loss(name).high for name in (weights, cache)}
                    if sum(lost.values()) > self.case.quality:
                        continue
                yield weights, cache

    def degrees(self, offer: Offer, chip: Accelerator) -> Iterator[tuple[int, int, int]]:
        """(tensor, pipeline, expert) degrees of a replica that wastes no accelerator."""
        model, n = self.case.model, offer.accelerators
        linked = (chip.link_bandwidth is not None and chip.scale_up_domain > 1) or chip.host_bandwidth is not None
        farthest = max(8, offer.domain // n)
        for tensor in range(1, offer.domain + 1 if linked else 2):
            if model.heads % tensor:
                continue
            if not fills(tensor, n, farthest):
                continue
            for pipeline in (1, 2, 3, 4, 5, 6, 8):
                if pipeline > model.layers or (pipeline > 1 and chip.nic_bandwidth is None):
                    continue
                if not fills(tensor * pipeline, n, farthest):
                    continue
                yield tensor, pipeline, 1
                for many in (2, 4, 8, 16, 32):
                    expert = tensor * many
                    near = expert <= max(n, offer.domain) or chip.nic_bandwidth is not None
                    if model.experts and model.experts % expert == 0 and near and fills(expert * pipeline, n, farthest):
                        yield tensor, pipeline, expert

    def drafted(self, tensor: int, pipeline: int) -> list[int]:
        """Tokens drafted a step: only in one stage, and where the draft's heads can be split."""
        case = self.case
        if case.speculative is None:
            return [0]
        possible = pipeline == 1 and (case.draft is None or case.draft.heads % tensor == 0)
        return [k for k in case.speculative[2] if k == 0 or possible]

    def links(self, chip: Accelerator, offer: Offer) -> serving.Links:
        inside = chip.link_bandwidth if chip.link_bandwidth is not None and chip.scale_up_domain > 1 else chip.host_bandwidth
        slow = Q(1e-3, "byte/s")
        return serving.Links(
            inside or slow, Q(0.0, "s"), chip.nic_bandwidth or slow, Q(0.0, "s"), float(max(offer.domain, offer.accelerators))
        )

    def traffic(self) -> serving.Traffic:
        read, written = self.case.tokens
        return serving.Traffic(Q(float(read), "token"), Q(float(written), "token"), self.case.prefix_hit)

    # ---- what a pool carries

    def reach(self, offer: Offer, people: tuple[int, ...]) -> tuple[tuple[float, Any], ...] | None:
        """TTFT targets of a pool that serves these people; None when it may not, or cannot."""
        if (offer.region, people) not in self.reached:
            self.reached[offer.region, people] = self._reach(offer, people)
        return self.reached[offer.region, people]

    def _reach(self, offer: Offer, people: tuple[int, ...]) -> tuple[tuple[float, Any], ...] | None:
        slowest = 0.0
        for k in people:
            group = self.case.people[k]
            if group.residency is not None and self.catalog.regions[offer.region].country != group.residency:
                return None
            if group.near is not None:
                place = ",".join(map(str, PLACES[group.near]))
                slowest = max(slowest, self.catalog.round_trip_from(place, offer.region).time.m_as("ms"))
        targets = []
        for name, limit in self.case.ttft:
            if limit - slowest <= 0:
                return None
            targets.append((float(name[1:]) / 100, Q(limit - slowest, "ms").to("s")))
        return tuple(targets)

    def carries(self, offer: Offer, people: tuple[int, ...], span: int, units: int) -> int:
        """Most load [1/1000 per second] of one pool of `units` times `span` machines, whatever its layout."""
        targets = self.reach(offer, people)
        if targets is None or span not in self.runs(offer) or units < 1:
            return 0
        key = (offer.accelerator, offer.accelerators, offer.domain, span, tuple((p, t.m_as("s")) for p, t in targets))
        known = self.known.setdefault(key, [])
        while len(known) < units:  # four more at once: most worlds never ask for the largest pools
            servers, slots, prefill, delay, residence = self.runs(offer)[span].T
            every = np.arange(len(known) + 1, len(known) + 5)[:, None]
            prefill, delay, residence = (Q(np.tile(time, len(every)), "s") for time in (prefill, delay, residence))
            count = (every * servers).ravel(), (every * slots).ravel()
            rate = serving.pool_rate(prefill, delay, *count, residence, targets, self.case.cv**2)
            known += [down(1000 * float(best)) for best in rate.m_as("1/s").reshape(len(every), -1).max(axis=1)]
        return known[units - 1]

    def together(self, offer: Offer, people: tuple[int, ...], machines: int) -> int:
        """Most load of this many machines, split into pools of any span and size in any way."""
        best = [0]
        for n in range(1, machines + 1):
            pools = [(span, u) for span in self.runs(offer) for u in range(1, n // span + 1)]
            best.append(max([best[n - 1], *(self.carries(offer, people, span, u) + best[n - span * u] for span, u in pools)]))
        return best[machines]

    # ---- what a machine costs

    def amounts(self, offer: Offer) -> dict[str, int]:
        """What one machine takes of everything, in the program's integers."""
        case, chip, region = self.case, self.catalog.chips[offer.accelerator], self.catalog.regions[offer.region]

        def figure(name: str) -> float:
            value = self.catalog.economics_value(name).typical
            assert value is not None
            return value

        grid = {"average": region.grid.average_intensity, "marginal": region.grid.marginal_intensity}[case.method]
        pue = figure("PUE industry average") if region.pue is None else region.pue
        wue = Q(figure("WUE US average"), "liter/kWh") if region.wue is None else region.wue
        hour = Q(1.0, "hour")
        typical = figure("average draw as fraction of TDP, LLM serving")
        energy = operations.energy(operations.node_power(offer.accelerators, chip.tdp, typical, chip.host_power_share), hour)
        carbon = operations.carbon(energy, pue, grid)
        if case.embodied and chip.embodied is not None:
            life = Q(figure("accelerator amortisation life"), "year")
            carbon = carbon + operations.embodied_carbon(chip.embodied, offer.accelerators, life, hour)
        full = operations.node_power(offer.accelerators, chip.tdp, 1.0, chip.host_power_share)
        water = operations.water(energy, wue, pue, Q(0.0, "liter/kWh"))
        weighed = offer.price.m_as("USD/hour") + case.carbon_price * carbon.m_as("tCO2e")
        return {
            "cost": up(offer.price.m_as("USD/hour") / 1e-4),
            "carbon": up(carbon.m_as("gCO2e") / 0.1),
            "power": up((full * pue).m_as("watt")),
            "water": up(water.m_as("liter") / 1e-3),
            "chips": offer.accelerators,
            "weighed": up(weighed / 1e-4),
        }

    def allowed(self) -> list[Offer]:
        """The offers that can be counted at all."""
        result = []
        for offer in self.case.offers:
            chip, region = self.catalog.chips[offer.accelerator], self.catalog.regions[offer.region]
            grid = {"average": region.grid.average_intensity, "marginal": region.grid.marginal_intensity}[self.case.method]
            if grid is not None and chip.tdp is not None and chip.host_power_share is not None and offer.option != "reserved-1y":
                result.append(offer)
        return result

    # ---- the optimum

    def best(self, rates: tuple[int, ...], limits: dict[str, int]) -> int | None:
        """The least objective, in the program's integers; None when nothing serves the rates."""
        return self._mixed(rates, limits) if self.case.mixed else self._one_kind(rates, limits)

    def _sides(self, offer: Offer, machines: int, limits: dict[str, int]) -> list[int]:
        """[objective, each limited resource, each quota] of this many machines."""
        each = self.amounts(offer)
        objective = each["weighed" if "price" in self.case.minimize else self.case.minimize]
        quotas = [((offer.accelerators if q.chips is not None else 1) if self._counts(q, offer) else 0) for q in self.case.quotas]
        return [machines * n for n in (objective, *(each[r] for r in limits), *quotas)]

    def _counts(self, quota: Quota, offer: Offer) -> bool:
        asked = ((quota.chip, offer.accelerator), (quota.region, offer.region), (quota.option, offer.option))
        return all(wanted is None or wanted == there for wanted, there in asked)

    def _bounds(self, limits: dict[str, int]) -> list[int]:
        return [*limits.values(), *(q.chips if q.chips is not None else q.instances or 0 for q in self.case.quotas)]

    def groups(self) -> list[tuple[int, ...]]:
        people = range(len(self.case.people))
        return [group for size in range(1, len(people) + 1) for group in itertools.combinations(people, size)]

    def enough(self, offer: Offer, group: tuple[int, ...], rates: tuple[int, ...], most: int) -> int | None:
        """Machines with which one offer serves a group alone, 0 when it never does; None when it takes more than `most`."""
        wanted = sum(rates[k] for k in group)
        if not any(self.carries(offer, group, span, 4) for span in self.runs(offer)):
            return 0
        return next((n for n in range(1, most + 1) if self.together(offer, group, n) >= wanted), None)

    def _mixed(self, rates: tuple[int, ...], limits: dict[str, int]) -> int | None:
        groups, bounds = self.groups(), self._bounds(limits)
        fleets = np.zeros((1, 1 + len(bounds) + len(groups)), np.int64)
        for offer in self.allowed():
            most = [self.enough(offer, group, rates, MOST) for group in groups]
            assert None not in most, "the demand is too large for this enumeration"
            options = []
            for split in itertools.product(*(range(n + 1) for n in most)):  # type: ignore[operator]
                loads = [self.together(offer, group, n) for group, n in zip(groups, split, strict=True)]
                options.append([*self._sides(offer, sum(split), limits), *loads])
            table = np.array(options, np.int64)
            fleets = (fleets[:, None, :] + table[None, :, :]).reshape(-1, fleets.shape[1])
            fleets = fleets[np.all(fleets[:, 1 : 1 + len(bounds)] <= bounds, axis=1)]
            fleets = cheapest(fleets, 1 + len(bounds), [sum(rates[k] for k in group) for group in groups])
        for some in groups:  # Hall: nobody is left out when every set of people finds room for its demand
            room = fleets[:, [1 + len(bounds) + i for i, group in enumerate(groups) if set(group) & set(some)]].sum(axis=1)
            fleets = fleets[room >= sum(rates[k] for k in some)]
        return int(fleets[:, 0].min()) if len(fleets) else None

    def _one_kind(self, rates: tuple[int, ...], limits: dict[str, int]) -> int | None:
        """One kind of machine (and span), and for everybody exactly one pool."""
        bounds, found = self._bounds(limits), []
        kinds: dict[tuple[str, int, int], list[Offer]] = {}
        for offer in self.allowed():
            for span in self.runs(offer):
                kinds.setdefault((offer.accelerator, offer.accelerators, span), []).append(offer)
        for (_, _, span), offers in kinds.items():
            pools: dict[tuple[int, ...], list[list[int]]] = {}
            for group in self.groups():
                wanted = sum(rates[k] for k in group)
                for offer in offers:
                    for units in range(1, MOST + 1):
                        if self.carries(offer, group, span, units) >= wanted:
                            pools.setdefault(group, []).append(self._sides(offer, units * span, limits))
                            break
                    else:
                        reach = self.reach(offer, group)
                        assert reach is None or not self.carries(offer, group, span, 4), "the demand is too large"
            for parts in partitions(tuple(range(len(rates)))):
                for chosen in itertools.product(*(pools.get(part, []) for part in parts)):
                    total = np.sum(chosen, axis=0)
                    if np.all(total[1:] <= bounds):
                        found.append(int(total[0]))
        return min(found, default=None)


MOST = 12  # machines of one offer, at most
GRID = {*range(1, 17), *(round(16 * 2 ** (step / 8)) for step in range(1, 60))}


def fills(chips: int, machine: int, farthest: int) -> bool:
    return machine % chips == 0 if chips <= machine else chips % machine == 0 and chips // machine <= farthest


def partitions(people: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every way to put people into groups."""
    if not people:
        yield ()
        return
    for size in range(len(people)):
        for others in itertools.combinations(people[1:], size):
            rest = tuple(k for k in people[1:] if k not in others)
            for more in partitions(rest):
                yield ((people[0], *others), *more)


def cheapest(fleets: np.ndarray, needs: int, enough: list[int]) -> np.ndarray:
    """Fleets without those that need no less of anything than another and carry no more. Load beyond need is no good."""
    fleets = fleets.copy()
    fleets[:, needs:] = np.minimum(fleets[:, needs:], enough)
    if len(fleets) < 2000:
        return fleets
    fleets = np.unique(fleets, axis=0)
    signed = np.concatenate([fleets[:, :needs], -fleets[:, needs:]], axis=1)
    keep: list[int] = []
    for i in range(len(signed)):  # sorted by objective first, so whatever beats a row stands before it
        if not len(keep) or not np.any(np.all(signed[keep] <= signed[i], axis=1)):
            keep.append(i)
    return fleets[keep]


# ---------------------------------------------------------------- the comparison


def demand(draw: Random, oracle: Oracle, people: int, most: int) -> tuple[int, ...]:
    """Rates that the weakest offer of all can serve with at most `most` machines, and that are not trivial either."""
    kinds = [(o, g, span) for o in oracle.allowed() for g in oracle.groups() for span in oracle.runs(o)]
    if oracle.case.mixed:
        served = {(o.name, g): o for o, g, span in kinds if oracle.carries(o, g, span, 4)}
        whole = [oracle.together(offer, group, most) for (_, group), offer in served.items()]
    else:
        whole = [oracle.carries(offer, group, span, most) for offer, group, span in kinds]
    least = min((load for load in whole if load > 0), default=20_000)
    weights = [draw.uniform(0.02, 1.0) for _ in range(people)]
    total = draw.uniform(0.05, 1.0) * least
    return tuple(max(1, int(total * weight / sum(weights))) for weight in weights)


def compare(seed: int, people: int, mixed: bool, most: int) -> None:
    """Both solvers against the oracle, without limits and then with a limit around what the best plan takes."""
    draw = Random(seed)
    case = case_of(draw, people, mixed)
    catalog = case.world()
    oracle = Oracle(case, catalog)
    rates = demand(draw, oracle, len(case.people), most)
    limits: dict[str, int] = {}
    memory = preparing.Memory()
    for _ in range(2):
        expected = oracle.best(rates, limits)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparing, "open_catalog", lambda query: catalog)
            query = case.ask(rates, limits)
            prepared = preparing.prepare(query, memory=memory)
            certificates = {e: preparing.prove(with_engine(prepared, e)) for e in ("highs", "cpsat")}
        for engine, certificate in certificates.items():
            assert certificate.status == ("infeasible" if expected is None else "optimal"), (engine, expected)
            assert certificate.objective == expected, engine
            assert expected is None or certificate.lower_bound == expected, engine
        if expected is None:
            return
        decisions = decisions_of(prepared, certificates["highs"])
        checked = evaluate(query, catalog, prepared.model, decisions)
        assert not checked.violations
        assert checked.objective == expected
        taken = {r: int(sum(oracle.amounts(catalog.offers[d.offer])[r] * d.instances for d in decisions)) for r in RESOURCES}
        resource = draw.choice([r for r in RESOURCES if taken[r] > 0])
        limits = {resource: max(1, int(taken[resource] * draw.choice([0.5, 0.9, 0.999, 1.0, 1.3])))}


RESOURCES = ("cost", "carbon", "power", "water", "chips")


def with_engine(prepared: preparing.Prepared, engine: str) -> preparing.Prepared:
    return replace(prepared, query=prepared.query.set("solver.engine", engine))


# A world is drawn from a seed, and each is a test of its own, so that they spread over all cores.


@pytest.mark.parametrize("seed", range(60))
def test_one_population(seed: int) -> None:
    compare(seed, people=1, mixed=True, most=8)


@pytest.mark.parametrize("seed", range(100, 130))
def test_two_populations(seed: int) -> None:
    compare(seed, people=2, mixed=True, most=3)


@pytest.mark.parametrize("seed", range(200, 235))
def test_fleets_that_may_not_mix(seed: int) -> None:
    compare(seed, people=2, mixed=False, most=6)
