"""Weights counted from shapes against published totals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoo.architecture import active_parameters, embedding_parameters, expert_parameters, missing, total_parameters
from zoo.catalog import Catalog
from zoo.errors import ZooError
from zoo.specs import Transformer
from zoo.tables import rows
from zoo.workloads import models, published

# Rows whose total cannot be held against a published one, and why.
NOT_COMPARED = {
    "llama-3.3-nemotron-super-49b": "every layer has its own shape",
    "nemotron-3-ultra-550b-a55b": "the latent width of its experts is not recorded",
    "longcat-flash": "two dense MLPs per layer and experts without weights",
    "minimax-m3": "no published total",
    "deepseek-v4-flash": "no published total",
    "deepseek-v4-pro": "no published total",
    "kimi-k3": "no published total",
    "step-3.7-flash": "no published total",
}
# Publishers who leave embeddings (or more) out of the active count.
OTHER_COUNT = {
    "minimax-m2.5",
    "gpt-oss-120b",
    "gpt-oss-20b",
    "glm-4.5-air",
    "ernie-4.5-21b-a3b",
    "qwen3-next-80b-a3b",
    "qwen3.5-35b-a3b",
}

TRANSFORMERS = {row["slug"]: row for row in rows("models.csv") if row["kind"] == "transformer"}


def model(name: str) -> Transformer:
    found = models()[name]
    assert isinstance(found, Transformer)
    return found


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name not in NOT_COMPARED])
def test_totals_match_what_was_published(name: str) -> None:
    total, active = published(TRANSFORMERS[name])
    assert total is not None
    assert total_parameters(model(name)) == pytest.approx(total, rel=0.04)
    if active is not None and name not in OTHER_COUNT:
        assert active_parameters(model(name)) == pytest.approx(active, rel=0.11)


def test_nothing_else_is_skipped() -> None:
    for name, reason in NOT_COMPARED.items():
        total, _ = published(TRANSFORMERS[name])
        assert reason and (total is None or missing(model(name)) or model(name).gaps)


def test_records_carry_the_published_total(catalog: Catalog) -> None:
    assert catalog.models["deepseek-v3"].parameters == 671e9
    assert model("gpt-oss-120b").active_parameters == 5.1e9


def test_by_hand() -> None:
    """Two layers, width 8, 2 heads of 4, MLP 16, vocabulary 10: a pencil gives 2 (4*64 + 3*128) + 5*8 + 2*80 = 1480."""
    tiny = Transformer("tiny", 2, 8, 2, 2, 4, 10, 0, 0, ffn_hidden=16, kv_layers=2)
    assert total_parameters(tiny) == 1480
    assert total_parameters(replace(tiny, gated=False)) == 1480 - 2 * 128
    assert total_parameters(replace(tiny, tie_embeddings=True)) == 1480 - 80
    # One key-value head instead of two: keys and values lose 2 * 8 * 4 in each layer.
    assert total_parameters(replace(tiny, kv_heads=1)) == 1480 - 2 * 64
    moe = replace(tiny, experts=4, top_k=1, moe_ffn_hidden=16, moe_layers=2, shared_experts=1)
    # Five experts of 384 and a router of 32 in place of one MLP, in both layers.
    assert total_parameters(moe) == 1480 + 2 * (4 * 384 + 32)
    assert active_parameters(moe) == 1480 + 2 * (384 + 32)
    assert expert_parameters(moe) == 384 and embedding_parameters(moe) == 160


def test_mla_of_deepseek_v3() -> None:
    """From the paper's shape: 187.1 M weights of attention in a layer."""
    from zoo.architecture import attention_parameters

    expected = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    assert attention_parameters(model("deepseek-v3")) == expected


def test_an_incomplete_shape_says_what_it_lacks() -> None:
    with pytest.raises(ZooError, match=r"llama-3.3-nemotron-super-49b.*lacks ffn_hidden"):
        total_parameters(model("llama-3.3-nemotron-super-49b"))


@pytest.mark.parametrize(
    ("name", "kv", "sliding", "window", "state"),
    [
        ("llama-3.1-70b", 80, 0, None, 0),
        ("gpt-oss-120b", 36, 18, 128, 0),
        ("gpt-oss-20b", 24, 12, 128, 0),
        ("gemma-2-27b", 46, 23, 4096, 0),
        ("gemma-3-27b", 62, 52, 1024, 0),
        ("llama-4-scout", 48, 36, 8192, 0),
        ("mimo-v2-flash", 48, 39, 128, 0),
        ("mistral-7b-v0.3", 32, 0, None, 0),
        ("phi-4-mini", 32, 0, None, 0),
        ("qwen3-next-80b-a3b", 12, 0, None, 36),
        ("qwen3.5-397b-a17b", 15, 0, None, 45),
        ("jamba-v0.1", 4, 0, None, 28),
        ("nemotron-h-56b", 10, 0, None, 54),
        ("nemotron-3-nano-30b-a3b", 6, 0, None, 23),
        ("mamba-2.8b", 0, 0, None, 64),
        ("longcat-flash", 56, 0, None, 0),
    ],
)
def test_what_layers_keep(name: str, kv: int, sliding: int, window: int | None, state: int) -> None:
    found = model(name)
    assert (found.kv_layers, found.sliding_layers, found.sliding_window, found.state_layers) == (kv, sliding, window, state)
    assert (found.state_elements > 0) == (state > 0)


def test_shapes_hang_together() -> None:
    for name in TRANSFORMERS:
        found = model(name)
        assert found.sliding_layers <= found.kv_layers, name
        assert (found.sliding_layers > 0) <= (found.sliding_window is not None), name
        assert found.top_k <= found.experts, name
        assert found.active_parameters <= found.parameters, name
        if found.kv_layers:
            assert found.heads % found.kv_heads == 0, name
        if found.attention == "MLA":
            assert found.head_dim == (found.qk_nope_dim or 0) + (found.qk_rope_dim or 0), name
