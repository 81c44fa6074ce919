"""Models whose numbers are known from their makers, written out so that the tests need no catalogue."""

import pytest

from zoo.specs import Transformer


@pytest.fixture(scope="session")
def llama8b() -> Transformer:
    return Transformer(
        name="Llama-3.1-8B", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, vocab=128256, parameters=8.03e9,
        active_parameters=8.03e9, ffn_hidden=14336, kv_layers=32,
    )  # fmt: skip


@pytest.fixture(scope="session")
def deepseek_v3() -> Transformer:
    return Transformer(
        name="DeepSeek-V3", layers=61, hidden=7168, heads=128, kv_heads=128, head_dim=56, vocab=129280, parameters=671e9,
        active_parameters=37e9, attention="MLA", kv_layers=61, experts=256, top_k=8, shared_experts=1, moe_ffn_hidden=2048,
        moe_layers=58, kv_lora_rank=512, q_lora_rank=1536, qk_rope_dim=64, qk_nope_dim=128, v_head_dim=128,
    )  # fmt: skip


@pytest.fixture(scope="session")
def mixtral() -> Transformer:
    return Transformer(
        name="Mixtral-8x7B", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, vocab=32000, parameters=46.7e9,
        active_parameters=12.9e9, ffn_hidden=14336, kv_layers=32, experts=8, top_k=2, moe_ffn_hidden=14336, moe_layers=32,
    )  # fmt: skip
