"""Workloads from `data/models.csv`: transformers by their shape, everything else by its totals."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from .architecture import active_parameters, missing, total_parameters
from .errors import ZooError
from .specs import Generic, Transformer, Workload
from .tables import Row, amount, integer, rows, source, spellings

# Endings that people add to or leave off a model's name without meaning another architecture.
SUFFIXES = ("-instruct", "-hf", "-chat", "-it", "-base", "-bf16", "-fp8", "-v0.1")


@cache
def models() -> dict[str, Workload]:
    """Every workload of the zoo by its canonical name, in the order of the file."""
    return {row["slug"]: _transformer(row) if row["kind"] == "transformer" else _generic(row) for row in rows("models.csv")}


def published(row: Row) -> tuple[float | None, float | None]:
    """Published total and active parameters of a row; None where the row has none."""
    return (
        float(round(float(row["params_b"]) * 1e9)) if row["params_b"] else None,
        float(round(float(row["active_params_b"]) * 1e9)) if row["active_params_b"] else None,
    )


def _transformer(row: Row) -> Transformer:
    model = Transformer(
        name=row["slug"],
        layers=int(row["layers"]),
        hidden=int(row["hidden"]),
        heads=integer(row["heads"]) or 0,
        kv_heads=integer(row["kv_heads"]) or 0,
        head_dim=integer(row["head_dim"]) or 0,
        vocab=integer(row["vocab"]) or 0,
        parameters=0.0,
        active_parameters=0.0,
        ffn_hidden=integer(row["ffn_hidden"]),
        gated=row["mlp_gated"] == "true",
        attention=row["attention"],
        kv_layers=integer(row["kv_layers"]) or 0,
        sliding_window=integer(row["sliding_window"]),
        sliding_layers=integer(row["sliding_layers"]) or 0,
        sparse_tokens=integer(row["sparse_tokens"]),
        state_layers=integer(row["state_layers"]) or 0,
        state_elements=integer(row["state_elements"]) or 0,
        state_parameters=integer(row["state_parameters"]) or 0,
        experts=integer(row["experts"]) or 0,
        top_k=integer(row["top_k"]) or 0,
        shared_experts=integer(row["shared_experts"]) or 0,
        moe_ffn_hidden=integer(row["moe_ffn_hidden"]),
        moe_layers=integer(row["moe_layers"]) or 0,
        ffn_layers=integer(row["ffn_layers"]),
        kv_lora_rank=integer(row["kv_lora_rank"]),
        q_lora_rank=integer(row["q_lora_rank"]),
        qk_rope_dim=integer(row["qk_rope_dim"]),
        qk_nope_dim=integer(row["qk_nope_dim"]),
        v_head_dim=integer(row["v_head_dim"]),
        tie_embeddings=row["tie_embeddings"] == "true",
        max_context=integer(row["max_context"]),
        gaps=tuple(g for g in row["gaps"].split("; ") if g),
        aliases=_aliases(row),
        source=source(row, note="; ".join(part for part in (row["note"], row["pattern_source"]) if part)),
    )
    total, active = published(row)
    if total is None:
        if missing(model):
            raise ZooError(f"models.csv: {model.name} has neither a published total nor a complete shape")
        total, active = total_parameters(model), active_parameters(model)
    return replace(model, parameters=total, active_parameters=total if active is None else active)


def _generic(row: Row) -> Generic:
    total, _ = published(row)
    if total is None:
        raise ZooError(f"models.csv: {row['slug']} has no published total")
    return Generic(
        name=row["slug"],
        kind=row["kind"],
        parameters=total,
        unit=row["sample_unit"],
        operations_per_unit=amount(row["forward_gflops_per_sample"], "GFLOP"),
        layers=integer(row["layers"]),
        aliases=_aliases(row),
        source=source(row),
    )


def _aliases(row: Row) -> tuple[str, ...]:
    hub = row["hf_id"] if "/" in row["hf_id"] else ""
    names = (row["name"], hub, hub.split("/")[-1], *spellings(row["aliases"]))
    return tuple(dict.fromkeys(name for name in names if name))
