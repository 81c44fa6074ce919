"""Configs of published models (reduced to the keys that matter) against what their publishers say of them."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from zoo.catalog import Catalog
from zoo.errors import ZooError
from zoo.importers.huggingface import transformer_from_config, transformer_from_hub
from zoo.specs import Transformer

CONFIGS = Path(__file__).parent / "configs"

# Published totals and active parameters in billions: model cards and papers.
PUBLISHED = {
    "llama-3.1-70b": (70.6, 70.6), "mixtral-8x7b": (46.7, 12.9), "deepseek-v3": (671, 37), "gpt-oss-120b": (116.8, None),
    "gemma-3-27b": (27.0, 27.0), "gemma-3-4b": (3.88, 3.88), "gemma-2-9b": (9.24, 9.24), "qwen3-235b-a22b": (235, 22),
    "qwen2.5-7b": (7.62, 7.62), "qwen1.5-moe-a2.7b": (14.3, 2.7), "llama-4-maverick": (400, 17), "mamba-2.8b": (2.77, 2.77),
    "falcon-7b": (6.92, 6.92), "falcon-40b": (41.3, 41.3), "mistral-7b-v0.1": (7.24, 7.24), "phi-3-mini-4k": (3.82, 3.82),
    "gpt2-xl": (1.56, 1.56), "gpt-neox-20b": (20.6, 20.6), "opt-13b": (12.85, 12.85), "bloom": (176.2, 176.2),
    "jamba-v0.1": (51.6, 12), "nemotron-3-nano-30b-a3b": (31.6, 3.6), "qwen3-next-80b-a3b": (80, None), "dbrx": (132, 36),
    "phi-2": (2.78, 2.78),
}  # fmt: skip


def config(name: str) -> dict[str, Any]:
    return dict(json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.json")))
def test_totals(name: str) -> None:
    total, active = PUBLISHED[name]
    model = transformer_from_config(CONFIGS / f"{name}.json")
    assert model.name == name
    assert model.parameters == pytest.approx(total * 1e9, rel=0.01)
    if active is not None:
        assert model.active_parameters == pytest.approx(active * 1e9, rel=0.025)
    assert not model.gaps


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-70b", {"attention": "GQA", "kv_heads": 8, "head_dim": 128, "kv_layers": 80, "max_context": 131072,
                           "gated": True}),
        ("mixtral-8x7b", {"experts": 8, "top_k": 2, "moe_layers": 32, "moe_ffn_hidden": 14336, "sliding_window": None}),
        ("deepseek-v3", {"attention": "MLA", "head_dim": 192, "v_head_dim": 128, "kv_lora_rank": 512, "qk_rope_dim": 64,
                         "moe_layers": 58, "shared_experts": 1, "q_lora_rank": 1536}),
        ("gpt-oss-120b", {"sliding_layers": 18, "kv_layers": 36, "sliding_window": 128, "experts": 128, "top_k": 4}),
        ("gemma-3-27b", {"sliding_layers": 52, "kv_layers": 62, "tie_embeddings": True, "kv_heads": 16}),
        ("gemma-3-4b", {"sliding_layers": 29, "kv_layers": 34, "heads": 8, "kv_heads": 4, "head_dim": 256}),
        ("gemma-2-9b", {"sliding_layers": 21, "sliding_window": 4096}),
        ("qwen3-235b-a22b", {"experts": 128, "moe_layers": 94, "head_dim": 128, "sliding_layers": 0}),
        ("qwen2.5-7b", {"sliding_layers": 0, "sliding_window": None}),
        ("qwen1.5-moe-a2.7b", {"shared_experts": 4, "moe_ffn_hidden": 1408, "sliding_layers": 0}),
        ("llama-4-maverick", {"moe_layers": 24, "ffn_hidden": 16384, "moe_ffn_hidden": 8192, "shared_experts": 1,
                              "sliding_layers": 36, "sliding_window": 8192}),
        ("mamba-2.8b", {"attention": "SSM", "kv_layers": 0, "state_layers": 64, "state_elements": 5120 * 16 + 5120 * 3}),
        ("falcon-7b", {"attention": "MQA", "kv_heads": 1, "head_dim": 64, "gated": False, "ffn_hidden": 4 * 4544}),
        ("falcon-40b", {"attention": "GQA", "kv_heads": 8}),
        ("mistral-7b-v0.1", {"sliding_layers": 32, "sliding_window": 4096}),
        ("phi-3-mini-4k", {"sliding_layers": 32, "sliding_window": 2047}),
        ("gpt2-xl", {"attention": "MHA", "gated": False, "tie_embeddings": True, "max_context": 1024, "ffn_hidden": 6400}),
        ("gpt-neox-20b", {"gated": False, "tie_embeddings": False}),
        ("jamba-v0.1", {"kv_layers": 4, "state_layers": 28, "moe_layers": 16, "experts": 16}),
        ("nemotron-3-nano-30b-a3b", {"kv_layers": 6, "state_layers": 23, "moe_layers": 23, "ffn_layers": 0, "shared_experts": 2,
                                     "gated": False}),
        ("qwen3-next-80b-a3b", {"kv_layers": 12, "state_layers": 36, "shared_experts": 1,
                                "state_elements": 32 * 128 * 128 + 8192 * 3}),
        ("dbrx", {"experts": 16, "top_k": 4, "kv_heads": 8, "moe_ffn_hidden": 10752}),
    ],
)  # fmt: skip
def test_shapes(name: str, expected: dict[str, object]) -> None:
    model = transformer_from_config(CONFIGS / f"{name}.json")
    assert {key: getattr(model, key) for key in expected} == expected


def test_an_imported_config_equals_the_record_of_the_zoo(catalog: Catalog) -> None:
    same = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "attention", "kv_layers", "sliding_window",
            "sliding_layers", "state_layers", "state_elements", "state_parameters", "experts", "top_k", "shared_experts",
            "moe_layers", "kv_lora_rank", "qk_rope_dim", "gated")  # fmt: skip
    compared = 0
    for path in CONFIGS.glob("*.json"):
        record = catalog.models.get(path.stem)
        if record is None:
            continue
        assert isinstance(record, Transformer)
        imported = transformer_from_config(path)
        for key in same:
            if path.stem in ("gemma-3-4b", "gemma-3-27b") and key == "vocab":  # 262,208 with image tokens; 262,144 of text
                continue
            assert getattr(imported, key) == getattr(record, key), (path.stem, key)
        compared += 1
    assert compared >= 15


def test_a_mapping_a_folder_and_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config("llama-3.1-70b")), encoding="utf-8")
    assert transformer_from_config(folder).name == "my-model"
    assert transformer_from_config(folder / "config.json", "other").name == "other"
    assert transformer_from_config({**config("phi-2"), "_name_or_path": "microsoft/phi-2"}).name == "phi-2"
    assert transformer_from_config(config("phi-2")).name == "phi"


def test_sparse_attention_is_what_a_config_and_the_table_say(catalog: Catalog) -> None:
    """DeepSeek sparse attention: the tokens that the indexer selects for a query; the plain model has none."""
    assert transformer_from_config({**config("deepseek-v3"), "index_topk": 2048}).sparse_tokens == 2048
    assert transformer_from_config(config("deepseek-v3")).sparse_tokens is None
    assert {name: catalog.models[name].sparse_tokens for name in ("deepseek-v3", "deepseek-v3.2", "glm-5")} == {
        "deepseek-v3": None, "deepseek-v3.2": 2048, "glm-5": 2048,
    }  # fmt: skip


def test_an_unknown_model_type_is_read_by_the_usual_keys() -> None:
    model = transformer_from_config({**config("llama-3.1-70b"), "model_type": "brand_new"})
    assert model.parameters == pytest.approx(70.6e9, rel=0.01)
    assert model.gaps == ("model type 'brand_new' is not known: its MLP is taken as gated (three matrices)",)
    odd = {**config("llama-3.1-70b"), "layer_types": ["full_attention"] * 79 + ["spiral"]}
    assert "layers of type spiral counted as full attention" in transformer_from_config(odd).gaps[0]


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "intermediate_size"])
def test_a_missing_key_is_named(key: str) -> None:
    data = config("llama-3.1-70b")
    del data[key]
    with pytest.raises(ZooError, match=f"lacks the key '{key}'"):
        transformer_from_config(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": "eighty"}, "num_hidden_layers is 'eighty', expected a whole number"),
        ({"num_hidden_layers": True}, "expected a whole number"),
        ({"num_hidden_layers": -1}, "expected a whole number"),
        ({"num_hidden_layers": 0}, "expected at least 1"),
        ({"num_hidden_layers": 10**9}, "are no transformer"),
        ({"num_hidden_layers": 8.5}, "expected a whole number"),
        ({"hidden_size": 8191}, "does not divide into 64 heads"),
        ({"num_key_value_heads": 7}, "64 attention heads do not divide over 7"),
        ({"layer_types": ["full_attention"]}, "lists 1 layer types for 80 layers"),
        ({"layer_types": ["sliding_attention"] * 80}, "lacks the key 'sliding_window'"),
        ({"kv_lora_rank": 512}, "lacks the key 'qk_nope_head_dim'"),
        ({"num_local_experts": 8}, "lacks the key 'num_experts_per_tok'"),
        ({"full_attention_interval": 4}, "lacks the key 'mamba_d_state'"),
        ({"is_encoder_decoder": True}, "is no decoder transformer"),
        ({"model_type": "bert"}, "'bert' is no decoder transformer"),
        ({"block_configs": [{}]}, "every layer its own shape"),
        ({"hybrid_override_pattern": "MX"}, "has 'X'"),
    ],
)
def test_configs_that_make_no_sense(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ZooError, match=says) as error:
        transformer_from_config({**config("llama-3.1-70b"), **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"[1]", "expected a JSON object"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[" * 100_000, "is not"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not a usable JSON"),
        (b" " * 10_000_001, "is larger than 10 MB"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ZooError, match=says) as error:
        transformer_from_config(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ZooError, match="no such file"):
        transformer_from_config(tmp_path / "none.json")


def test_the_hub_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ZooError, match=r"pip install 'wallplan\[hub\]'"):
        transformer_from_hub("meta-llama/Llama-3.1-70B")
