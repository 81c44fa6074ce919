"""How many weights a transformer has, counted from its shape.

Counted: embeddings, attention (also MLA), dense and expert MLPs, routers, state layers, norms. Left out: biases and
learned position embeddings (below 1 % of every model in the zoo), multi-token-prediction heads and vision towers.
"""

from __future__ import annotations

from .errors import ZooError
from .specs import Transformer


def missing(model: Transformer) -> tuple[str, ...]:
    """What the shape lacks to be counted, in words; empty when nothing is missing."""
    lacks = []
    for name in ("layers", "hidden", "vocab"):
        if not getattr(model, name):
            lacks.append(name)
    if model.kv_layers and not (model.heads and model.head_dim):
        lacks.append("heads")
    if model.attention == "MLA" and not (model.kv_lora_rank and model.qk_rope_dim and model.qk_nope_dim and model.v_head_dim):
        lacks.append("the ranks and head widths of MLA")
    if dense_layers(model) > 0 and not model.ffn_hidden:
        lacks.append("ffn_hidden")
    if model.experts and not (model.moe_ffn_hidden and model.moe_layers):
        lacks.append("moe_ffn_hidden and moe_layers")
    if model.state_layers and not model.state_parameters:
        lacks.append("state_parameters")
    return tuple(lacks)


def dense_layers(model: Transformer) -> int:
    """Layers with a dense MLP."""
    return model.layers - model.moe_layers if model.ffn_layers is None else model.ffn_layers


def attention_parameters(model: Transformer) -> float:
    """Weights of one attention layer: query, key, value and output projections, or those of MLA."""
    values = model.v_head_dim or model.head_dim
    if model.attention == "MLA":
        assert model.kv_lora_rank and model.qk_rope_dim and model.qk_nope_dim
        queries = model.heads * (model.qk_nope_dim + model.qk_rope_dim)
        query = model.hidden * model.q_lora_rank + model.q_lora_rank * queries if model.q_lora_rank else model.hidden * queries
        down = model.hidden * (model.kv_lora_rank + model.qk_rope_dim)
        up = model.kv_lora_rank * model.heads * (model.qk_nope_dim + values)
        return query + down + up + model.heads * values * model.hidden
    query = model.hidden * model.heads * model.head_dim
    keys_and_values = model.hidden * model.kv_heads * (model.head_dim + values)
    return query + keys_and_values + model.heads * values * model.hidden


def mlp_parameters(hidden: int, ffn_hidden: int, gated: bool) -> float:
    """Weights of one MLP: up and down projections, and a gate."""
    return (3 if gated else 2) * hidden * ffn_hidden


def expert_parameters(model: Transformer) -> float:
    """Weights of one expert."""
    return mlp_parameters(model.hidden, model.moe_ffn_hidden or 0, model.gated)


def embedding_parameters(model: Transformer) -> float:
    """Weights of the token embedding and of the output head, which may be the same matrix."""
    return model.vocab * model.hidden * (1 if model.tie_embeddings else 2)


def total_parameters(model: Transformer) -> float:
    """Every weight, counted from the shape. Raises ZooError naming what the shape lacks."""
    return _parameters(model, model.experts + model.shared_experts)


def active_parameters(model: Transformer) -> float:
    """The weights that one token passes through: of the experts only the chosen and the shared. Raises ZooError."""
    return _parameters(model, model.top_k + model.shared_experts)


def _parameters(model: Transformer, experts: int) -> float:
    lacks = missing(model)
    if lacks:
        raise ZooError(f"{model.name}: parameters cannot be counted, the record lacks {' and '.join(lacks)}")
    dense = dense_layers(model)
    attention = model.kv_layers * attention_parameters(model) if model.kv_layers else 0.0
    mlp = dense * mlp_parameters(model.hidden, model.ffn_hidden or 0, model.gated)
    router = model.hidden * model.experts
    moe = model.moe_layers * (experts * expert_parameters(model) + router) if model.experts else 0.0
    state = model.state_layers * model.state_parameters
    norms = (model.kv_layers + model.state_layers + dense + model.moe_layers + 1) * model.hidden
    return float(attention + mlp + moe + state + norms + embedding_parameters(model))
