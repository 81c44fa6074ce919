"""A transformer from a Hugging Face `config.json`, without downloading its weights.

Read: LLaMA-like dense models, MoE (Mixtral, Qwen, DeepSeek, GPT-OSS, Llama 4, DBRX), MLA, sliding and chunked windows
(Gemma, Mistral, Phi), two-matrix MLPs (GPT-2, NeoX, OPT, BLOOM, Falcon), state-space and linear-attention models and
hybrids (Mamba, Jamba, Nemotron-H, Qwen3-Next). A model type that is not known is read by the usual keys; what had to
be assumed stands in the record's `gaps`. Parameters are counted from the shape (zoo/architecture.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

from ..architecture import active_parameters, total_parameters
from ..errors import ZooError
from ..specs import Source, Transformer
from ..tables import DATA
from ..yaml_source import read

MAX_BYTES = 10_000_000
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_VOCAB = ("vocab_size", "padded_vocab_size")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
_FFN = ("intermediate_size_mlp", "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff")
_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "moe_k", "top_k_experts", "experts_per_token")
_EXPERT_FFN = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_hidden_size")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
_SHARED_FFN = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size")

FULL, SLIDING, STATE, NONE = "full", "sliding", "state", "none"  # what a layer keeps of the past
_STATE_ONLY = ("mamba", "mamba2", "falcon_mamba")  # model types of nothing but state layers
_LAYER_TYPES = {
    "full_attention": FULL,
    "attention": FULL,
    "global": FULL,
    "sliding_attention": SLIDING,
    "chunked_attention": SLIDING,
    "local": SLIDING,
    "linear_attention": STATE,
    "mamba": STATE,
    "mamba2": STATE,
    "mlp": NONE,
    "moe": NONE,
}
_PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}  # Nemotron-H


def transformer_from_config(config: Mapping[str, Any] | str | Path, name: str | None = None) -> Transformer:
    """The transformer that a config describes: a mapping, the path of a `config.json`, or of the folder with one.

    `name` is what to call it; otherwise the config's own name, the folder's or the file's. Raises ZooError, one line,
    naming the key that is missing or has no meaning here.
    """
    if isinstance(config, Mapping):
        data, place = dict(config), "config"
    else:
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        data, place = _read(path), str(path)
        name = name or _own_name(data) or (path.parent.name if path.name == "config.json" and path.parent.name else path.stem)
    return _transformer(_Config(data, place), name or _own_name(data) or str(data.get("model_type") or "model"))


def transformer_from_hub(model_id: str, revision: str | None = None) -> Transformer:
    """The transformer of a model on the Hugging Face hub; reads its config.json only.

    Needs the optional package huggingface_hub. Raises ZooError when it is missing or the model cannot be read.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ZooError("models from the hub need huggingface_hub: install it with pip install 'wallplan[hub]'") from None
    try:
        path = hf_hub_download(repo_id=model_id, filename="config.json", revision=revision)
    except Exception as error:  # the package raises many kinds; each is one reason for the same fault
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ZooError(f"{model_id}: config.json cannot be read from the hub ({reason[:160]})") from None
    model = transformer_from_config(path, model_id.split("/")[-1])
    return replace(model, aliases=(model_id,), source=Source(f"{model_id} config.json", None, True, model.source.note))


def _own_name(data: Mapping[str, Any]) -> str | None:
    own = data.get("_name_or_path")
    return own.rstrip("/").split("/")[-1] if isinstance(own, str) and own.strip("/. ") else None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ZooError(f"{path}: no such file") from None
    except OSError as error:
        raise ZooError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(content) > MAX_BYTES:
        raise ZooError(f"{path}: is larger than {MAX_BYTES // 1_000_000} MB, too large for a config.json")
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ZooError(f"{path}: is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ZooError(f"{path}:{error.lineno}: is not valid JSON ({error.msg})") from None
    except (RecursionError, ValueError):
        raise ZooError(f"{path}: is not a usable JSON file") from None
    if not isinstance(data, dict):
        raise ZooError(f"{path}: expected a JSON object with keys such as num_hidden_layers")
    return data


@cache
def _classes() -> dict[str, Any]:
    return read(DATA / "hub_defaults.yaml").data


class _Config:
    """A config with the text part of a multimodal one on top and the class defaults beneath."""

    def __init__(self, data: dict[str, Any], place: str) -> None:
        self.place = place
        self.type = str(data.get("model_type") or "")
        self._parts: list[Mapping[str, Any]] = [data]
        for key in _TEXT_PARTS:
            inner = data.get(key)
            if isinstance(inner, dict):
                self._parts.insert(0, inner)
                self.type = str(inner.get("model_type") or self.type)
                if isinstance(inner.get("text_config"), dict):
                    self._parts.insert(0, inner["text_config"])
        for key in ("attn_config", "ffn_config"):  # MPT and DBRX
            if isinstance(self.get(key), dict):
                self._parts.insert(1, self.get(key))
        self.defaults: Mapping[str, Any] = _classes()["defaults"].get(self.type, {})

    def fault(self, message: str) -> ZooError:
        return ZooError(f"{self.place}: {message}")

    def get(self, *keys: str, default: Any = None) -> Any:
        """The first of `keys` that has a value."""
        for part in (*self._parts, getattr(self, "defaults", {})):
            for key in keys:
                if part.get(key) is not None:
                    return part[key]
        return default

    def count(self, *keys: str, default: int | None = None) -> int | None:
        """The first of `keys` as a whole number from 0."""
        value = self.get(*keys)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10**12:
            key = next(k for k in keys if self.get(k) is not None)
            raise self.fault(f"{key} is {str(value)[:40]!r}, expected a whole number")
        return value

    def need(self, *keys: str) -> int:
        """The first of `keys` as a whole number from 1. Raises ZooError naming the key."""
        value = self.count(*keys)
        if value is None:
            known = f" (model type {self.type!r})" if self.type else ""
            raise self.fault(f"lacks the key {keys[0]!r}{known}")
        if value < 1:
            raise self.fault(f"{keys[0]} is {value}, expected at least 1")
        return value

    def items(self, *keys: str) -> list[Any]:
        """The first of `keys` as a list; empty when none has a value."""
        value = self.get(*keys, default=[])
        if not isinstance(value, list):
            raise self.fault(f"{keys[0]} is {str(value)[:40]!r}, expected a list")
        return value

    def is_a(self, kind: str) -> bool:
        """Whether the model type is in a list of hub_defaults.yaml."""
        return self.type in _classes()[kind]


def _transformer(config: _Config, name: str) -> Transformer:
    _refuse(config)
    gaps: list[str] = []
    layers, hidden = config.need(*_LAYERS), config.need(*_HIDDEN)
    if layers > 10_000:
        raise config.fault(f"{layers} layers are no transformer")
    kinds, roles = _layers(config, layers, gaps)
    attends = FULL in kinds or SLIDING in kinds
    shape = _attention(config, hidden) if attends else {"heads": 0, "kv_heads": 0, "head_dim": 0, "attention": "SSM"}
    window = config.count("sliding_window", "attention_chunk_size", "window_size", "sliding_window_size")
    experts = _experts(config, layers, roles, gaps)
    state = _state(config, hidden) if STATE in kinds else {}
    ffn_layers = _dense_layers(config, layers, kinds, roles, int(experts.get("moe_layers", 0)))
    ffn = None
    if ffn_layers:
        ffn = config.count(*_FFN) or (4 * hidden if config.is_a("ungated") else None)
        if ffn is None:
            config.need("intermediate_size")
    model = Transformer(
        name=name,
        layers=layers,
        hidden=hidden,
        vocab=config.need(*_VOCAB),
        parameters=0.0,
        active_parameters=0.0,
        ffn_hidden=ffn,
        gated=_gated(config, gaps),
        kv_layers=sum(kind in (FULL, SLIDING) for kind in kinds),
        sliding_window=window if SLIDING in kinds else None,
        sliding_layers=kinds.count(SLIDING),
        sparse_tokens=config.count("index_topk"),
        state_layers=kinds.count(STATE),
        ffn_layers=None if ffn_layers == layers - experts.get("moe_layers", 0) else ffn_layers,
        tie_embeddings=_tied(config),
        max_context=config.count(*_CONTEXT),
        gaps=tuple(gaps),
        source=Source(config.place, None, False, f"model type {config.type or 'not given'}; parameters counted from the shape"),
        **shape,
        **experts,
        **state,
    )
    return replace(model, parameters=total_parameters(model), active_parameters=active_parameters(model))


def _refuse(config: _Config) -> None:
    if config.get("is_encoder_decoder") is True or config.is_a("other"):
        raise config.fault(f"model type {config.type!r} is no decoder transformer: describe it by its totals instead")
    if config.get("block_configs"):
        raise config.fault("block_configs gives every layer its own shape, which one record cannot hold")


# ---------------------------------------------------------------- attention


def _attention(config: _Config, hidden: int) -> dict[str, Any]:
    heads = config.need(*_HEADS)
    if config.count("kv_lora_rank"):
        nope, rope = config.need("qk_nope_head_dim"), config.need("qk_rope_head_dim")
        return {
            "attention": "MLA",
            "heads": heads,
            "kv_heads": heads,
            "head_dim": nope + rope,
            "kv_lora_rank": config.need("kv_lora_rank"),
            "q_lora_rank": config.count("q_lora_rank"),
            "qk_nope_dim": nope,
            "qk_rope_dim": rope,
            "v_head_dim": config.need("v_head_dim"),
        }
    kv_heads = _kv_heads(config, heads)
    width = config.count("head_dim", "kv_channels", "attention_head_dim")
    if not width:
        if hidden % heads:
            raise config.fault(f"lacks the key 'head_dim', and hidden size {hidden} does not divide into {heads} heads")
        width = hidden // heads
    values = config.count("v_head_dim")
    return {
        "attention": "MHA" if kv_heads == heads else "MQA" if kv_heads == 1 else "GQA",
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": width,
        "v_head_dim": values if values and values != width else None,
    }


def _kv_heads(config: _Config, heads: int) -> int:
    if config.get("multi_query") is True and config.get("new_decoder_architecture") is not True:
        return 1
    kv_heads = config.count("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "kv_n_heads", default=heads) or heads
    if heads % kv_heads:
        raise config.fault(f"{heads} attention heads do not divide over {kv_heads} key-value heads")
    return kv_heads


# ---------------------------------------------------------------- layers


def _layers(config: _Config, layers: int, gaps: list[str]) -> tuple[list[str], list[str]]:
    """What each layer keeps of the past, and, where the config lists them, the role of each layer ("mamba", "moe", ...)."""
    roles = _roles(config, layers)
    if roles:
        unknown = sorted({role for role in roles if role not in _LAYER_TYPES})
        if unknown:
            gaps.append(f"layers of type {', '.join(unknown)} counted as full attention, so the KV cache is an upper bound")
        kinds = [_LAYER_TYPES.get(role, FULL) for role in roles]
    else:
        kinds = _patterned(config, layers)
    window, context = config.count("sliding_window", "attention_chunk_size", "window_size"), config.count(*_CONTEXT)
    if SLIDING in kinds and not window:
        raise config.fault("lacks the key 'sliding_window' that its sliding layers need")
    if window and context and window >= context:
        kinds = [FULL if kind == SLIDING else kind for kind in kinds]
    return kinds, roles


def _roles(config: _Config, layers: int) -> list[str]:
    listed = config.items("layer_types", "layers_block_type")
    pattern = config.get("hybrid_override_pattern", "hybrid_layer_pattern")
    linear = config.get("linear_attn_config")
    if listed:
        roles = [str(role) for role in listed]
    elif isinstance(pattern, str) and pattern:
        wrong = sorted(set(pattern) - set(_PATTERN))
        if wrong:
            raise config.fault(f"hybrid_override_pattern has {wrong[0]!r}, expected only {' '.join(_PATTERN)}")
        roles = [_PATTERN[letter] for letter in pattern]
    elif isinstance(pattern, list) and pattern:  # MiMo: 1 slides
        roles = ["sliding_attention" if mark == 1 else "full_attention" for mark in pattern]
    elif isinstance(linear, dict) and isinstance(linear.get("full_attn_layers"), list):  # Kimi Linear
        full = linear["full_attn_layers"]
        roles = ["full_attention" if i + 1 in full else "linear_attention" for i in range(layers)]
    elif config.items("attn_type_list"):  # MiniMax: 0 is linear
        roles = ["full_attention" if mark == 1 else "linear_attention" for mark in config.items("attn_type_list")]
    elif config.items("attention_types"):  # GPT-Neo: [[["global", "local"], 12]]
        try:
            roles = [str(role) for names, times in config.items("attention_types") for role in names * min(times, layers)]
        except (TypeError, ValueError):
            raise config.fault("attention_types is no list of names and times, such as [[['global', 'local'], 12]]") from None
    else:
        return []
    if len(roles) != layers:
        raise config.fault(f"lists {len(roles)} layer types for {layers} layers")
    return roles


def _patterned(config: _Config, layers: int) -> list[str]:
    if config.type in (*_STATE_ONLY, "rwkv"):
        return [STATE] * layers
    interval = config.count("full_attention_interval")
    if interval:
        return [FULL if (i + 1) % interval == 0 else STATE for i in range(layers)]
    period = config.count("attn_layer_period")
    if period:
        offset = config.count("attn_layer_offset", default=0)
        return [FULL if i % period == offset else STATE for i in range(layers)]
    return [SLIDING if slides else FULL for slides in _sliding(config, layers)]


def _sliding(config: _Config, layers: int) -> list[bool]:
    if config.count("attention_chunk_size"):  # Llama 4: layers without rotary positions see everything
        rotary = config.get("no_rope_layers")
        if isinstance(rotary, list) and len(rotary) == layers:
            return [mark == 1 for mark in rotary]
        interval = config.count("no_rope_layer_interval") or layers + 1
        return [(i + 1) % interval != 0 for i in range(layers)]
    window = config.count("sliding_window")
    if not window or config.get("use_sliding_window") is False:
        return [False] * layers
    if config.type.startswith("qwen") and config.get("use_sliding_window") is not True:
        return [False] * layers
    pattern = config.count("sliding_window_pattern", "_sliding_window_pattern")
    if pattern:
        return [(i + 1) % pattern != 0 for i in range(layers)]
    first = config.count("max_window_layers", default=0) if config.type.startswith("qwen") else 0
    return [i >= (first or 0) for i in range(layers)]


# ---------------------------------------------------------------- MLPs and experts


def _experts(config: _Config, layers: int, roles: list[str], gaps: list[str]) -> dict[str, Any]:
    experts = config.count(*_EXPERTS, default=0)
    if not experts or experts == 1:
        return {}
    width = config.need(*_EXPERT_FFN)
    shared = config.count(*_SHARED, default=0) or 0
    shared_width = config.count(*_SHARED_FFN)
    if shared_width:
        if shared_width % width:
            gaps.append(f"shared expert of width {shared_width} counted as {ceil(shared_width / width)} experts of {width}")
        shared = ceil(shared_width / width)
    return {
        "experts": experts,
        "top_k": config.need(*_TOP_K),
        "shared_experts": shared,
        "moe_ffn_hidden": width,
        "moe_layers": _moe_layers(config, layers, roles),
    }


def _moe_layers(config: _Config, layers: int, roles: list[str]) -> int:
    if "moe" in roles:
        return roles.count("moe")
    listed = config.get("moe_layers")
    if isinstance(listed, list):
        return len(listed)
    frequency = config.get("moe_layer_freq")
    if isinstance(frequency, list):
        return sum(mark == 1 for mark in frequency)
    first = config.count("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers", default=0) or 0
    step = (
        config.count("moe_layer_freq", "moe_layer_interval", "interleave_moe_layer_step", "decoder_sparse_step", default=1) or 1
    )
    period = config.count("expert_layer_period")
    if period:
        offset = config.count("expert_layer_offset", default=0)
        return sum(i % period == offset for i in range(layers))
    dense = config.items("mlp_only_layers")
    by_next = config.count("interleave_moe_layer_step", "decoder_sparse_step") is not None
    return sum(i >= first and i not in dense and (i + 1 if by_next else i) % step == 0 for i in range(layers))


def _dense_layers(config: _Config, layers: int, kinds: list[str], roles: list[str], moe_layers: int) -> int:
    if "mlp" in roles or "moe" in roles:  # every layer is one thing
        return roles.count("mlp")
    if config.type in _STATE_ONLY:
        return 0
    if config.get("enable_moe_block") is True:  # Gemma 4: a dense MLP beside the experts
        return layers
    return layers - moe_layers


def _gated(config: _Config, gaps: list[str]) -> bool:
    if config.is_a("ungated") or config.type in _STATE_ONLY:
        return False
    if not config.is_a("gated"):
        gaps.append(f"model type {config.type!r} is not known: its MLP is taken as gated (three matrices)")
    return True


def _tied(config: _Config) -> bool:
    said = config.get("tie_word_embeddings")
    return said if isinstance(said, bool) else config.is_a("tied")


# ---------------------------------------------------------------- state layers


def _state(config: _Config, hidden: int) -> dict[str, Any]:
    if config.count("linear_num_value_heads"):
        shape = gated_delta_net(
            hidden,
            config.need("linear_num_key_heads"),
            config.need("linear_num_value_heads"),
            config.need("linear_key_head_dim"),
            config.need("linear_value_head_dim"),
            config.count("linear_conv_kernel_dim", default=4) or 4,
        )
    elif isinstance(config.get("linear_attn_config"), dict):  # Kimi Linear: one state per head
        linear = config.get("linear_attn_config")
        heads, width = int(linear.get("num_heads") or 0), int(linear.get("head_dim") or 0)
        if not (heads and width):
            raise config.fault("linear_attn_config lacks 'num_heads' or 'head_dim'")
        shape = gated_delta_net(hidden, heads, heads, width, width, int(linear.get("short_conv_kernel_size") or 4))
    elif config.type == "rwkv":
        shape = (5 * hidden, 5 * hidden**2)
    elif config.type == "mamba2" or config.count("mamba_num_heads", "mamba_n_heads"):
        pure = config.type == "mamba2"  # elsewhere the plain keys belong to attention
        shape = mamba2(
            hidden,
            config.need("num_heads") if pure else config.need("mamba_num_heads", "mamba_n_heads"),
            config.need("head_dim") if pure else config.need("mamba_head_dim", "mamba_d_head"),
            config.need("ssm_state_size", "mamba_d_state", "state_size"),
            config.count("n_groups", "mamba_n_groups", default=1) or 1,
            config.count("conv_kernel", "mamba_d_conv", default=4) or 4,
        )
    else:
        expand = config.count("mamba_expand", "expand", default=2) or 2
        rank = config.get("mamba_dt_rank", "time_step_rank", default="auto")
        shape = mamba(
            hidden,
            expand * hidden,
            config.need("mamba_d_state", "state_size", "ssm_state_size"),
            ceil(hidden / 16) if rank == "auto" else config.need("mamba_dt_rank", "time_step_rank"),
            config.count("mamba_d_conv", "conv_kernel", default=4) or 4,
        )
    return {"state_elements": shape[0], "state_parameters": shape[1]}


def mamba(hidden: int, inner: int, state: int, rank: int, kernel: int) -> tuple[int, int]:
    """(elements of state per sequence, weights) of a Mamba layer: Gu and Dao 2023."""
    elements = inner * state + inner * (kernel - 1)
    weights = 2 * hidden * inner + inner * (kernel + 1) + inner * (rank + 2 * state) + (rank + 1) * inner
    return elements, weights + inner * state + inner + inner * hidden


def mamba2(hidden: int, heads: int, width: int, state: int, groups: int, kernel: int) -> tuple[int, int]:
    """(elements of state per sequence, weights) of a Mamba-2 layer: Dao and Gu 2024."""
    inner = heads * width
    convolved = inner + 2 * groups * state
    weights = hidden * (inner + convolved + heads) + convolved * (kernel + 1) + 3 * heads + inner + inner * hidden
    return inner * state + convolved * (kernel - 1), weights


def gated_delta_net(hidden: int, key_heads: int, heads: int, key_width: int, width: int, kernel: int) -> tuple[int, int]:
    """(elements of state per sequence, weights) of a gated delta-rule layer: Yang et al. 2024."""
    keys, values = key_heads * key_width, heads * width
    convolved = 2 * keys + values
    weights = hidden * (2 * keys + 2 * values + 2 * heads) + convolved * kernel + 2 * heads + width + values * hidden
    return heads * key_width * width + convolved * (kernel - 1), weights
