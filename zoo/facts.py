"""Fabrics, storage, economics, reliability, spot traces and grid profiles from their files."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np

from .specs import Economics, Fabric, GridProfile, Interruptions, Source, SpotTrace, Storage
from .tables import Row, amount, integer, number, rows, source, spellings
from .units import Q


@cache
def fabrics() -> dict[str, Fabric]:
    """Every link family by its canonical name, in the order of the file."""
    return {row["slug"]: _fabric(row) for row in rows("fabrics.csv")}


def _fabric(row: Row) -> Fabric:
    return Fabric(
        name=row["slug"],
        kind=row["kind"],
        bandwidth=amount(row["gbs_per_dir_per_device"], "GB/s"),
        latency=amount(row["alpha_us_one_way"], "us"),
        launch=amount(row["alpha_us_collective_launch"], "us"),
        achievable=number(row["achievable_fraction"]),
        domain=integer(row["domain_size"]),
        topology=row["topology"] or None,
        oversubscription=number(row["oversubscription"]),
        switch=row["switch_model"] or None,
        switch_ports=integer(row["switch_ports"]),
        switch_power=amount(row["switch_power_w"], "W"),
        transceiver_power=amount(row["transceiver_w"], "W"),
        aliases=(row["name"], *spellings(row["aliases"])),
        source=source(row),
    )


@cache
def storage() -> dict[str, Storage]:
    """Every storage system or tier by its canonical name, in the order of the file."""
    return {row["slug"]: _storage(row) for row in rows("storage.csv")}


def _storage(row: Row) -> Storage:
    per = "GiB" if "per GiB-month" in row["note"] else "GB"
    return Storage(
        name=row["slug"],
        kind=row["class"],
        read_bandwidth=amount(row["read_gbs_per_unit"], "GB/s"),
        write_bandwidth=amount(row["write_gbs_per_unit"], "GB/s"),
        unit=row["unit"],
        max_read=amount(row["max_read_gbs"], "GB/s"),
        max_write=amount(row["max_write_gbs"], "GB/s"),
        latency=amount(row["latency_ms"], "ms"),
        price=amount(row["usd_gb_month"], f"USD/{per}/month"),
        cloud=row["cloud"] or None,
        region=f"{row['cloud']}/{row['region']}" if row["region"] else None,
        aliases=(row["name"],),
        source=source(row),
    )


@cache
def economics() -> dict[str, Economics]:
    """Every economic figure: by its parameter where that is unique, else "parameter / scope"."""
    table = rows("economics.csv")
    count = Counter(row["parameter"] for row in table)
    return {
        row["parameter"] if count[row["parameter"]] == 1 else f"{row['parameter']} / {row['scope']}": Economics(
            category=row["category"],
            parameter=row["parameter"],
            scope=row["scope"],
            low=number(row["low"]),
            typical=number(row["typical"]),
            high=number(row["high"]),
            unit=row["unit"],
            source=source(row),
        )
        for row in table
    }


@cache
def reliability() -> dict[str, Interruptions]:
    """Published interruptions of training runs and clusters."""
    return {
        row["id"]: Interruptions(
            name=row["id"],
            accelerators=int(row["n_accelerators"]) if row["n_accelerators"] else 0,
            period=amount(row["period_days"], "day"),
            interruptions=integer(row["interruptions"]),
            mtbf_cluster=amount(row["mtbf_hours_cluster"], "hour"),
            mtbf_accelerator=amount(row["implied_mtbf_hours_per_accelerator"], "hour"),
            source=source(row),
        )
        for row in rows("reliability.csv")
    }


@cache
def spot_traces() -> dict[str, SpotTrace]:
    """Measured spot capacity, 2022 to 2023."""
    return {row["trace"]: _spot_trace(row) for row in rows("spot_traces.csv")}


def _spot_trace(row: Row) -> SpotTrace:
    month, day, year = row["start_date"].split("-")
    return SpotTrace(
        name=row["trace"],
        kind=row["kind"],
        cloud=row["cloud"],
        region=f"{row['cloud']}/{row['region']}",
        zone=row["zone"],
        accelerator=row["accelerator"],
        accelerators=integer(row["accelerator_count"]) or 0,
        nodes=int(row["nodes"]),
        period=Q(float(row["hours"]), "hour"),
        available_fraction=float(row["mean_available_fraction"]),
        mean_up=amount(row["mean_up_hours"], "hour"),
        mean_down=amount(row["mean_down_hours"], "hour"),
        interruption_rate=amount(row["interruptions_per_day"], "1/day"),
        source=source(row, date=f"{year}-{month}-{day}"),
    )


@cache
def grid_profiles() -> dict[str, tuple[GridProfile, ...]]:
    """Hourly shapes of every grid zone with data; a zone may have several, the newest life-cycle one first."""
    hours = [f"h{hour:02d}" for hour in range(24)]
    arrays: dict[tuple[str, str, str, str], dict[str, np.ndarray]] = {}
    for row in rows("grid_profiles.csv"):
        key = (row["zone"], row["year"], row["basis"], row["source"])
        statistics = arrays.setdefault(key, {s: np.full((12, 24), np.nan) for s in ("mean", "p10", "p90")})
        statistics[row["statistic"]][int(row["month"]) - 1] = [float(row[h]) for h in hours]
    zones: dict[str, list[GridProfile]] = {}
    for (zone, year, basis, code), statistics in arrays.items():
        quantities = {name: Q(values, "gCO2e/kWh") for name, values in statistics.items()}
        zones.setdefault(zone, []).append(
            GridProfile(zone=zone, year=int(year), basis=basis, source=Source(code, year, True), **quantities)
        )
    return {
        zone: tuple(sorted(profiles, key=lambda p: (p.basis.startswith("lca"), p.basis == "lca-flow", p.year), reverse=True))
        for zone, profiles in zones.items()
    }
