"""What is for sale: one offer per instance type, region and purchase option, from `data/prices.csv`.

Published price lists hold traps. Each is either noted in `Offer.flags`, or keeps the price out of the catalog with
the reason in `Excluded`. Nothing is dropped without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

from .specs import Accelerator, Offer, Region, Source
from .tables import Row, amount, integer, known, rows

OPTIONS = ("on-demand", "spot", "reserved-1y", "reserved-3y")

# Purchase option -> the columns with its price per instance and the date of that price.
_COLUMNS = {
    "on-demand": ("on_demand_usd_h", "price_date"),
    "spot": ("spot_usd_h", "spot_date"),
    "reserved-1y": ("reserved_1y_usd_h", "reserved_date"),
    "reserved-3y": ("reserved_3y_usd_h", "reserved_date"),
}
_NO_PRICE = (0.0, 700.0)  # what price lists write where they have no price
_FAR_BELOW = 0.25  # of the median: a price this low is worth a second look
_SPOT_ADVISOR = re.compile(r"spot derived = on-demand x \(1 - Spot Advisor saving (\d+)%\)")


@dataclass(frozen=True, slots=True)
class Excluded:
    """A price that the catalog leaves out, and why. `record` is the name that the offer would have had."""

    record: str
    reason: str


def domain(chip: Accelerator, accelerators: int, instance: str) -> int:
    """Accelerators in reach over the scale-up link on an instance: see `Offer.domain`."""
    if chip.domain_kind in ("rack", "slice"):
        return chip.scale_up_domain
    if chip.domain_kind == "bridge":
        return min(accelerators, chip.scale_up_domain)
    if re.match(r"trn\d+u\.", instance):  # an UltraServer
        return chip.scale_up_domain
    return accelerators


def offers(
    chips: Mapping[str, Accelerator], regions: Mapping[str, Region], incomplete: bool = False
) -> tuple[dict[str, Offer], tuple[Excluded, ...]]:
    """Every usable offer by name, in the order of the file, and everything left out.

    `incomplete` keeps prices that lack the host, flagged, for whoever adds the host's price.
    """
    found: dict[str, Offer] = {}
    excluded: list[Excluded] = []
    by_cloud: dict[str, list[Region]] = {}
    for region in regions.values():
        by_cloud.setdefault(region.cloud, []).append(region)
    listed = {(row["cloud"], row["region"], row["instance_type"]) for row in rows("prices.csv")}
    for row in rows("prices.csv"):
        everywhere = row["region"] == "*"
        name = f"{row['cloud']}/{row['region']}"
        if everywhere:  # but where the instance is listed by region, that row stands
            everything = by_cloud.get(row["cloud"], [])
            places = [r for r in everything if (row["cloud"], r.region, row["instance_type"]) not in listed]
        else:
            places = [regions[name]] if name in regions else []
        if not places:
            reason = "the place of this region is not known: no carbon, residency or latency for it"
            excluded.append(Excluded(f"{name}/{row['instance_type']}", reason))
        for place in places:
            for record in _offers_of_row(row, place, chips[row["chip"]], everywhere, incomplete):
                if isinstance(record, Excluded):
                    excluded.append(record)
                else:
                    found[record.name] = record
    return _flag_low_prices(found), tuple(excluded)


def _offers_of_row(row: Row, region: Region, chip: Accelerator, everywhere: bool, incomplete: bool) -> Iterator[Offer | Excluded]:
    accelerators = int(row["accelerator_count"])
    stem = f"{region.name}/{row['instance_type']}"
    common = _common_flags(row["note"], row["offered"] == "true", region.government, everywhere)
    reach = domain(chip, accelerators, row["instance_type"])
    vcpus, host_memory = integer(row["vcpus"]), amount(row["host_mem_gib"], "GiB")
    on_demand = float(row["on_demand_usd_h"]) if row["on_demand_usd_h"] else None
    host_missing = "GPU component only" in row["note"]
    priced = False
    for option, (price_column, date_column) in _COLUMNS.items():
        cell = row[price_column]
        if not cell:
            continue
        priced = True
        name = f"{stem}/{option}"
        reason = _unusable(option, float(cell), on_demand, None if not host_missing or incomplete else row["note"])
        if reason:
            yield Excluded(name, reason)
            continue
        date = row[date_column] or row["price_date"] or None
        yield Offer(
            name=name,
            cloud=region.cloud,
            region=region.name,
            instance=row["instance_type"],
            option=option,
            accelerator=chip.name,
            accelerators=accelerators,
            price=known(cell, "USD/hour"),
            domain=reach,
            interruption_band=(row["spot_interruption_band"] or None) if option == "spot" else None,
            stock_confirmed=row["offered"] == "true",
            vcpus=vcpus,
            host_memory=host_memory,
            flags=(*common, *_option_flags(option, row["note"], date)),
            source=_source(row["source"], date, row["verified"] == "true", row["note"]),
        )
    if not priced:
        yield Excluded(stem, f"no price in the source{': ' + row['note'] if row['note'] else ''}")


def _unusable(option: str, price: float, on_demand: float | None, host_note: str | None) -> str | None:
    """Why a price cannot stand, or None."""
    if price in _NO_PRICE or price < 0:
        return f"{price:g} USD/h is a mark for no price"
    if host_note is not None:
        return f"host not included: {host_note}"
    if on_demand is not None and option == "spot" and price >= on_demand * (1 - 1e-4):
        return f"spot at {price:g} USD/h is no lower than on-demand at {on_demand:g}: no discount"
    if on_demand is not None and option.startswith("reserved") and price > on_demand:
        return f"reserved at {price:g} USD/h is above on-demand at {on_demand:g}: it predates a price cut"
    return None


# Thousands of prices share a few notes, dates and sources.
_source = cache(Source)


@cache
def _common_flags(note: str, offered: bool, government: bool, everywhere: bool) -> tuple[str, ...]:
    flags = []
    if everywhere:
        flags.append("one list price in every region; stock unconfirmed")
    elif not offered:
        flags.append("stock unconfirmed")
    if government:
        flags.append("government region: open to eligible customers only")
    if "GPU component only" in note:
        flags.append("host not included")
    if "PRE-CUT price" in note:
        flags.append("price from before the June 2025 cut: likely too high")
    if "listed in EUR" in note:
        flags.append("currency uncertain: the provider lists EUR, the source says USD")
    if "form factor not stated" in note:
        flags.append(next(part for part in note.split("; ") if "form factor not stated" in part))
    if "per-GPU price" in note:
        flags.append("price per GPU; sold in sizes of 1 to 8")
    if "dynamic pricing" in note:
        flags.append("dynamic pricing: moves daily")
    if "extrapolated" in note:
        flags.append("price extrapolated from smaller instances")
    if "recalled" in note:
        flags.append("price recalled, not read")
    return tuple(flags)


@cache
def _option_flags(option: str, note: str, date: str | None) -> tuple[str, ...]:
    flags = []
    derived = _SPOT_ADVISOR.search(note)
    if option == "spot" and derived:
        flags.append(f"spot derived from a Spot Advisor saving of {derived.group(1)} %, not quoted")
    if option.startswith("reserved") and "predates the June-2025 cut" in note:
        flags.append("reserved price predates the June 2025 cut: upper bound")
    if option != "on-demand" and "2024-04 export" in note:
        flags.append("from an export of April 2024" + ("; term not labelled, taken as 3 years" if "reserved" in option else ""))
    if date is None:
        flags.append("price undated")
    elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        flags.append(f"price dated only {date}")
    return tuple(flags)


def _flag_low_prices(found: dict[str, Offer]) -> dict[str, Offer]:
    """Flags on-demand prices per chip below a quarter of the median over clouds of that chip's median."""
    prices: dict[str, dict[str, list[float]]] = {}
    for offer in found.values():
        if offer.option == "on-demand":
            per_chip = offer.price.magnitude / offer.accelerators
            prices.setdefault(offer.accelerator, {}).setdefault(offer.cloud, []).append(per_chip)
    medians = {chip: median(median(values) for values in clouds.values()) for chip, clouds in prices.items()}
    flagged = dict(found)
    for name, offer in found.items():
        if offer.option == "on-demand":
            usual = medians[offer.accelerator]
            if offer.price.magnitude / offer.accelerators < _FAR_BELOW * usual:
                flag = f"far below median: {offer.price.magnitude / offer.accelerators:.2f} against {usual:.2f} USD/h per chip"
                flagged[name] = replace(offer, flags=(*offer.flags, flag))
    return flagged
