"""The equation of a wall with a serving plan's figures in it: each with its symbol, value, unit and source, pool by pool.

Every figure is what the forward models are given or give now, recomputed from the plan's decisions; results carry the equation
that they come from as their source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models import fleet, node, serving
from models.wall import WALLS
from zoo.catalog import Catalog
from zoo.specs import Accelerator, Offer, Source, Transformer
from zoo.units import Q, Quantity

from .columns import budgets, figure
from .evaluate import Checked, check, fleet_walls, pool_walls
from .plan import Argument, Plan, WallPage, WallRow
from .query import ServeQuery
from .solve import reload
from .space import format_of

_CATALOG = "zoo/data/economics.csv"
_MODEL = "models/serving.py"
_HERE = "this equation"
# Walls that ask about a whole plan of any kind, and what answers.
OF_WHOLE_PLANS = {
    21: "it asks about the whole plan: `wallplan explain plan.json` and `--tornado`",
    22: "it asks about the whole plan: `wallplan explain plan.json --synthesis CHIP`",
}


@dataclass(frozen=True, slots=True)
class _Pool:
    """A pool with what its figures come from."""

    query: ServeQuery
    catalog: Catalog
    model: Transformer
    checked: Checked
    offer: Offer
    chip: Accelerator
    fitted: str  # where the constants are from

    @property
    def deployment(self) -> serving.Deployment:
        return self.checked.running.deployment

    @property
    def in_flight(self) -> float:
        """Sequences that one pipeline stage decodes at once."""
        x = self.deployment.layouts
        return float(np.maximum(x.batch / x.pipeline_parallel, 1.0)[0])

    @property
    def queries(self) -> float:
        """Tokens of each sequence in a decode step: one, and those that are drafted."""
        draft = self.deployment.draft
        return 1.0 if draft is None else 1.0 + float(np.ravel(draft.tokens)[0])


def page_of(plan: Plan, number: int) -> WallPage:
    """One wall in a plan. Raises QueryError or ValueError where what the plan names is no more."""
    form, figures = _WALLS.get(number, ("", None))
    absent, arguments, readings = _ABSENT.get(number, ""), list[Argument](), list[WallRow]()
    if not plan.fleet:
        absent = f"the question has no plan ({plan.status})"
    elif figures is not None:
        query, catalog, model, decisions = reload(plan)
        fitted = "models/data/serving_constants.csv" if query.calibration.file is None else f"query: {query.calibration.file}"
        pools = []
        for decision in decisions:
            checked = check(query, catalog, model, decision)
            offer = catalog.find("offers", decision.offer)
            pools.append(_Pool(query, catalog, model, checked, offer, catalog.chips[offer.accelerator], fitted))
        for i, pool in enumerate(pools, 1):
            arguments += (a.model_copy(update={"of": f"#{i} {pool.offer.name}"}) for a in figures(pool))
            readings += (row for row in pool_walls(query, pool.checked) if row.number == number)
        readings += (row for row in fleet_walls(query, [pool.checked for pool in pools]) if row.number == number)
        if not arguments:
            absent = _UNKNOWN[number]
    return page(number, form, absent, arguments, readings)


def page(number: int, form: str, absent: str, arguments: Sequence[Argument], readings: Sequence[WallRow]) -> WallPage:
    """What the table of walls says of one, with its figures in a plan; `absent`: why it has none."""
    wall = WALLS[number - 1]
    return WallPage(
        number=number, name=wall.name, equation=wall.equation, form="" if absent else form, bounds=wall.bounded,
        reference=wall.reference, absent=absent, arguments=() if absent else tuple(arguments),
        readings=() if absent else tuple(readings), assumes=wall.assumptions, leaves_out=wall.leaves_out,
    )  # fmt: skip


def argument(symbol: str, meaning: str, value: object, source: object) -> Argument:
    """A figure with its value as reports print it. value: a quantity (the first of an array), a number, or words."""
    amount, unit = None, ""
    if isinstance(value, Quantity):
        unit = f"{value.units:~C}".replace("usd", "USD").replace("co2e", "CO2e").replace("count", "")
        amount = float(np.ravel(value.magnitude)[0])
        text = f"{amount:,.6g} {unit}".strip()
    elif not isinstance(value, str):
        amount = float(np.ravel(value)[0])  # type: ignore[call-overload]
        text = f"{amount:,.6g}"
    else:
        text = str(value)
    return Argument(symbol=symbol, meaning=meaning, value=text, source=_source(source), amount=amount, unit=unit)


def _source(source: object) -> str:
    if not isinstance(source, Source):
        return str(source)
    return " ".join(part for part in (source.text or "zoo", f"({source.date})" if source.date else "") if part)


def _one(value: object) -> float:
    """The one element of an array of one."""
    return float(np.ravel(value)[0])  # type: ignore[call-overload]


def _asked(pool: _Pool, path: str) -> str:
    return f"query: {pool.query.locate(path)}"


def _products(pool: _Pool) -> Iterator[tuple[str, int]]:
    """(name, position) of each kind of matrix product that the model has."""
    yield "dense layers", 0
    yield "output head", 1
    if pool.deployment.work.routed:
        yield "routed experts", 2


def _compute(pool: _Pool) -> Iterator[Argument]:
    c, d = pool.checked, pool.deployment
    yield argument("lambda", "load of the pool", Q(c.pool.load_per_s, "1/s"), "plan")
    yield argument("OPs_r", "a request: its prompt read and its tokens decoded", c.operations.to("TFLOP"),
                   f"models/node.py, {_source(pool.model.source)}")  # fmt: skip
    yield argument("N", "accelerators", c.pool.accelerators, "plan")
    computes = format_of(c.pool.layout.precision).computes_in
    yield argument("Peak", f"{pool.chip.name} in {computes}", pool.chip.peak[computes].to("TFLOP/s"), pool.chip.source)
    yield argument("u", "lambda OPs_r / (N Peak)", (c.used / c.peak).to(""), _HERE)
    work = serving.products(d, np.array([pool.in_flight * pool.queries]), False)
    compute, _, _ = serving.product_times(d, work)
    yield argument("n", "tokens of a decode step, of one stage", pool.in_flight * pool.queries, "plan: batch / pp")
    for name, i in _products(pool):
        yield argument("OPs", f"{name}, of a decode step", work.operations[i].to("TFLOP"), "2 n P / tp, wall 4")
        yield argument("Peak", f"{name}", work.peak[i].to("TFLOP/s"), pool.chip.source)
        yield argument("eta", f"{name}, wall 3", _one(work.compute_fraction[i]), pool.fitted)
        yield argument("T", f"{name}: OPs / (Peak eta)", compute[i].to("ms"), _HERE)


def _memory(pool: _Pool) -> Iterator[Argument]:
    d, r, layout = pool.deployment, pool.checked.running.replica, pool.checked.pool.layout
    w, c, source = d.work, d.constants, _source(pool.model.source)
    yield argument("P_d", "parameters of attention and of dense layers", w.dense, source)
    if w.routed:
        yield argument("P_e", "parameters of routed experts", w.routed, source)
    yield argument("V", "parameters of an embedding or output table", w.table, source)
    yield argument("n", "tables on the fullest stage", 1.0 if layout.pipeline_parallel > 1 else w.tables, source)
    yield argument("b", f"{layout.precision}, an element with its scales", d.layouts.weight_bytes, "models/data/precision.csv")
    yield argument("L_s / L", "layers of the fullest stage", f"{_one(serving.stage_layers(d)):g} / {w.layers:g}", "plan")
    yield argument("t, e", "tensor and expert parallel", f"{layout.tensor_parallel}, {layout.expert_parallel}", "plan")
    yield argument("|W|", "L_s/L (P_d/t + P_e/max(t,e)) b + n V max(b, 2 B)/t, on the fullest accelerator",
                   serving.weights_per_chip(d).to("GiB"), _HERE)  # fmt: skip
    if layout.drafted:
        drafting = r.weights - serving.weights_per_chip(d)
        yield argument("|W_d|", "the same of what drafts tokens", drafting.to("GiB"), "query: workload.speculative")
    yield argument("B", "sequences", layout.batch, "plan")
    yield argument("KV", "cache of a sequence at its mean length, on one accelerator", r.cache_per_sequence.to("GiB"), "wall 5")
    longest = serving.with_draft(d, serving.longest_cache)
    yield argument("KV_end", "of a sequence at its end", longest.to("GiB"), "wall 5")
    yield argument("C", f"memory of {pool.chip.name}", pool.chip.memory.to("GiB"), pool.chip.source)
    yield argument("m", "share of it that the engine may use", c.memory_share, pool.fitted)
    yield argument("w", "its workspace", c.workspace.to("GiB"), pool.fitted)
    yield argument("R", "(1 - m) C + w", r.reserve.to("GiB"), _HERE)
    yield argument("M", "|W| + max(B KV, KV_end) + R" + (" + |W_d|" if layout.drafted else ""), r.memory_needed.to("GiB"), _HERE)
    if pool.checked.running.reader is not None:
        yield argument("M_p", "the same of an accelerator that only reads prompts",
                       pool.checked.running.reader.memory_needed.to("GiB"), _HERE)  # fmt: skip
    work = serving.products(d, np.array([pool.in_flight * pool.queries]), False)
    _, memory, _ = serving.product_times(d, work)
    yield argument("BW_HBM", "memory bandwidth", pool.chip.memory_bandwidth.to("GB/s"), pool.chip.source)
    for name, i in _products(pool):
        yield argument("|W|", f"{name}, read in a decode step", work.traffic[i].to("GB"), "as above, in decimal units")
        yield argument("eta_m", f"{name}, of the bandwidth", _one(work.memory_fraction[i]), pool.fitted)
        yield argument("T", f"{name}: |W| / (BW_HBM eta_m)", memory[i].to("ms"), _HERE)


def _software(pool: _Pool) -> Iterator[Argument]:
    d, c = pool.deployment, pool.checked
    n = pool.in_flight * pool.queries
    work = serving.products(d, np.array([n]), False)
    yield argument("eta_0", "of the peak, reached by large matrix products", _one(d.layouts.compute_efficiency), pool.fitted)
    yield argument("s", "kept in sustained operation", d.constants.sustained, pool.fitted)
    yield argument("n", "tokens of a decode step, of one stage", n, "plan: batch / pp")
    yield argument("n_half", "tokens at which half is reached", d.constants.half_efficiency_rows, pool.fitted)
    yield argument("eta", "eta_0 s n / (n + n_half), of dense layers in a decode step", _one(work.compute_fraction[0]), _HERE)
    yield argument("eta", "of the output head in a decode step, a constant", _one(work.compute_fraction[1]), pool.fitted)
    if d.work.routed:
        yield argument("eta", "of routed experts in a decode step: smaller products, fewer tokens each",
                       _one(work.compute_fraction[2]), f"{_MODEL}, products")  # fmt: skip
    yield argument("u", "utilisation at the load", (c.used / c.peak).to(""), "wall 1")


def _serving(pool: _Pool) -> Iterator[Argument]:
    running, d, layout = pool.checked.running, pool.deployment, pool.checked.pool.layout
    c, p, r, n = d.constants, running.predicted, running.replica, pool.in_flight
    source = f"{_MODEL}, constants of {pool.fitted}"
    expected = _one(p.tokens_per_step)
    passed = serving.pass_time(d, np.array([n * pool.queries]), False)
    prompts = serving.prompts_together(d, np.array([n * expected]))
    step = serving.step_time(d, np.array([n]), prompts, pool.queries)
    host = n / _one(d.layouts.attention_parallel) * c.sequence
    attention = serving.decode_attention_time(d, np.array([n]), pool.queries)
    yield argument("n", "sequences that a stage decodes at once", n, "plan: batch / pp")
    yield argument("t_fixed", "scheduler, sampler and launches of a step", serving.fixed_time(d).to("ms"), source)
    yield argument("p", "soft roofline of matrix products: 1 no overlap, infinity the larger alone", c.roofline_exponent,
                   pool.fitted)  # fmt: skip
    yield argument("t_matrix", "sum over products of (T_1^p + T_2^p)^(1/p), T of wall 1 and of wall 2", passed.matrix.to("ms"),
                   source)  # fmt: skip
    yield argument("t_comm", "collectives, wall 14", passed.communication.to("ms"), source)
    yield argument("t_att", "attention over the cache: its reading and its arithmetic by a soft roofline", attention.to("ms"),
                   f"{_MODEL}, decode_attention_time")  # fmt: skip
    yield argument("h", "host work for one sequence", c.sequence.to("us"), pool.fitted)
    yield argument("a", "attention ranks", _one(d.layouts.attention_parallel), "plan")
    yield argument("t_host", "n h / a, host work for the sequences of a rank", host.to("ms"), _HERE)
    if d.measured is not None:
        yield argument("k", "measured kernels over the modelled ones", _one(d.measured.decode),
                       f"query: calibration.source, {pool.query.calibration.source}")  # fmt: skip
    total = "t_fixed + t_matrix + t_comm + t_att + t_host"
    yield argument("t_step", f"k ({total})" if d.measured is not None else total, step.decode.to("ms"), _HERE)
    yield argument("pp", "pipeline stages", layout.pipeline_parallel, "plan")
    if layout.drafted:
        yield argument("t_draft", f"to draft {layout.drafted} tokens", serving.drafting_time(d, np.array([n])).to("ms"), source)
        yield argument("E", "tokens of a sequence in a step", expected, _asked(pool, "workload.speculative"))
    drafted, each = (" + t_draft", " / E") if layout.drafted else ("", "")
    if running.reader is not None:
        slow = running.slow
        yield argument("x", f"width of the interval, {pool.query.rank} end", slow[0], "models/data/serving_intervals.csv")
        yield argument("TPOT", f"x (pp t_step{drafted}){each}", running.station.tpot.to("ms"), _HERE)
    else:
        yield argument("phi", "what a prefill adds to a decode step, over what it takes alone", c.interference, pool.fitted)
        yield argument("O", "output tokens of a request, the first too", d.work.output, _asked(pool, "workload.tokens.output"))
        yield argument("t_+", "what a prompt read in a step adds to it: its tokens' products and its attention",
                       step.increment.to("ms"), f"{_MODEL}, step_time")  # fmt: skip
        yield argument(
            "t_l", "launch of a prefill, shared by the prompts of a step", (c.prefill_launch / prompts).to("ms"), pool.fitted
        )
        yield argument("x", f"width of the interval, {pool.query.rank} end", (r.tpot / p.tpot).to(""),
                       "models/data/serving_intervals.csv")  # fmt: skip
        disturbed = "pp phi (n - 1)/O (t_+ + t_l)"
        yield argument("TPOT", f"x ((pp t_step{drafted}){each} + {disturbed})", r.tpot.to("ms"), _HERE)
    for bound in pool.query.sla.bounds():
        if bound.metric == "tpot":
            yield argument("SLA", f"TPOT {bound.statistic}", bound.limit.to("ms"), _asked(pool, f"sla.tpot.{bound.statistic}"))


def _batching(pool: _Pool) -> Iterator[Argument]:
    d, model, layout, r = pool.deployment, pool.model, pool.checked.pool.layout, pool.checked.running.replica
    source, tokens = _source(model.source), pool.query.workload.tokens
    latent = model.attention == "MLA"
    mean = float(tokens.input) + float(tokens.output) / 2
    yield argument("L", "layers with a cache", model.kv_layers, source)
    if latent:
        what = "elements of a token in a layer: the latent and the rotary key"
        yield argument("2 H D", what, node.kv_elements_per_token(model), source)
    else:
        yield argument("H", "heads of keys and values", model.kv_heads, source)
        yield argument("D", "width of a head", model.head_dim, source)
    if model.sliding_layers:
        yield argument("w", f"tokens that {model.sliding_layers} of the layers keep at most", model.sliding_window or 0, source)
    if model.state_layers:
        yield argument("E_s", f"elements of a constant state, in {model.state_layers} layers", model.state_elements, source)
    yield argument("S", "mean length: input and half of the output", Q(mean, "token"), _asked(pool, "workload.tokens"))
    yield argument("p", "page", serving.PAGE, _MODEL)
    yield argument("b", f"{layout.kv_precision}, an element", d.layouts.kv_bytes, "models/data/precision.csv")
    less = (", at most the window" if model.sliding_layers else "") + (", and the states" if model.state_layers else "")
    yield argument("KV_1", f"2 L H D ceil(S/p) p b{less}, of one sequence", d.work.cache_live.to("GiB"), _HERE)
    yield argument("a", "share of it on one accelerator", _one(serving.cache_share(d)),
                   "L_s/L / (min(tp, H) x attention ranks)" if not latent else "L_s/L / attention ranks")  # fmt: skip
    yield argument("KV_a", "a KV_1" + (", and of the draft" if layout.drafted else ""), r.cache_per_sequence.to("GiB"), _HERE)
    free = r.memory_there - r.reserve - r.weights
    yield argument("F", "free beside weights and reserve: C - R - |W|", free.to("GiB"), "wall 2")
    yield argument("B_max", "floor(F / KV_a)", _one(r.largest_batch), _HERE)
    yield argument("B", "sequences", layout.batch, "plan")
    yield argument("KV", "B KV_1, of the batch", (layout.batch * d.work.cache_live).to("GiB"), _HERE)


def _tail(pool: _Pool) -> Iterator[Argument]:
    c, station, row = pool.checked, pool.checked.running.station, pool.checked.pool
    rate, variability = Q(np.array([row.load_per_s]), "1/s"), pool.query.workload.arrivals.cv**2
    servers, slots = c.units * station.servers, c.units * station.slots
    ranked = f"{_MODEL}, {pool.query.rank} end of the interval"
    yield argument("lambda", "load of the pool", Q(row.load_per_s, "1/s"), "plan")
    yield argument("c", "prompts that are read at the same time", _one(servers), "plan: replicas x pp")
    typical, apart = c.running.predicted, c.running.reader is not None
    if not apart:
        yield argument("x", f"width of the interval of first tokens, {pool.query.rank} end",
                       (station.prefill_time / typical.prefill_time).to(""), "models/data/serving_intervals.csv")  # fmt: skip
        yield argument("S_0", "prefill of a prompt, typical: products, collectives and attention", typical.prefill_time.to("ms"),
                       f"{_MODEL}, prompt_alone")  # fmt: skip
    yield argument("S", "prefill of a prompt, mean" if apart else "x S_0, prefill of a prompt, mean",
                   station.prefill_time.to("ms"), ranked if apart else _HERE)  # fmt: skip
    offered = (rate * station.prefill_time).to("")
    yield argument("a", "lambda S", offered, _HERE)
    yield argument("C", "Erlang-C(c, a): share of requests that wait", _one(node.erlang_c(servers, offered.magnitude)),
                   "models/node.py")  # fmt: skip
    yield argument("v", "squared variation of the time between arrivals", variability, _asked(pool, "workload.arrivals.cv"))
    yield argument("theta", "(c/S - lambda) / ((v + 1)/2)", ((servers / station.prefill_time - rate) / ((variability + 1) / 2))
                   .to("1/s"), _HERE)  # fmt: skip
    yield argument("m", "slots: sequences that are decoded at the same time", _one(slots), "plan: replicas x batch")
    if not apart:
        yield argument("t_0", "network stack and the fixed costs of a step", typical.dispatch.to("ms"), f"{_MODEL}, fixed_time")
        yield argument("k", "decode steps that a prompt waits for", pool.deployment.constants.step_wait, pool.fitted)
        yield argument("t_decode", "a decode step, typical, wall 4", typical.decode_step.to("ms"), _MODEL)
        yield argument(
            "O", "output tokens of a request, the first too", pool.deployment.work.output, _asked(pool, "workload.tokens.output")
        )
        yield argument("TPOT", f"wall 4, {pool.query.rank} end, every slot busy", station.tpot.to("ms"), _MODEL)
    yield argument("R", "how long a request holds a slot" + ("" if apart else ": D + S + (O - 1) TPOT"),
                   station.residence.to("s"), ranked if apart else _HERE)  # fmt: skip
    blocked = serving.blocked_share(rate, slots, station.residence, variability)
    yield argument("P_b", "Erlang-C(m, lambda R): share that finds no slot", _one(blocked), "models/node.py")
    yield argument("D", "before prefill: network stack, steps in progress" + ("" if apart else ": x (t_0 + k t_decode)"),
                   station.delay.to("ms"), ranked if apart else _HERE)  # fmt: skip
    yield argument("N", "round trip of the farthest who are served", c.network.to("ms"), "zoo/data/region_rtt.csv")
    queue = (station.prefill_time, station.delay, servers, slots, station.residence)
    bounds = [bound for bound in pool.query.sla.bounds() if bound.metric == "ttft"]
    targets = budgets(pool.query, c.network) or ()
    late = serving.late_share(rate, *queue, targets, variability)
    for bound, share in zip(bounds, late, strict=False):
        limit = f"TTFT {bound.statistic}"
        yield argument("T_q", f"{limit}, promised", bound.limit.to("ms"), _asked(pool, f"sla.ttft.{bound.statistic}"))
        yield argument("late", f"P_b + P(W + S > T_q - N - D), of {limit}", _one(share),
                       "e^(-t/S) + C (e^(-t/S) - e^(-theta t)) / (theta S - 1)")  # fmt: skip
        yield argument("1 - q", f"share that may be late, of {limit}", 1 - (bound.percentile or 0.0), _HERE)
        quantile = serving.first_token_quantile(rate, *queue, bound.percentile or 0.0, variability) + c.network
        yield argument("TTFT", f"{limit} at this load", quantile.to("ms"), "the t with P_b + P(W + S > t - N - D) = 1 - q")
    yield argument("lambda_max", "largest load that keeps every target", Q(row.capacity_per_s, "1/s"),
                   "models/serving.py, pool_rate")  # fmt: skip


def _fidelity(pool: _Pool) -> Iterator[Argument]:
    layout, quality = pool.checked.pool.layout, pool.query.sla.quality
    if pool.checked.quality is None and quality is None:
        return
    for what, name in (("weights", layout.precision), ("cache", layout.kv_precision)):
        known = format_of(name)
        bits = 8 * known.bytes_per_element.m_as("byte")
        yield argument("b", f"bits of an element of the {what} in {name}, with scales", bits, "models/data/precision.csv")
        yield argument("r", f"32 / b, of the {what}", 32 / bits, _HERE)
        yield argument("l", f"quality lost, high end, {what} in {name}", "not measured" if known.loss is None else known.loss,
                       "models/data/quality.csv")  # fmt: skip
    lost = pool.checked.quality
    yield argument("loss", "sum of l", "not known" if lost is None else lost, _HERE)
    if quality is not None:
        yield argument("SLA", "loss allowed", quality.loss, _asked(pool, "sla.quality.loss"))


def _communication(pool: _Pool) -> Iterator[Argument]:
    d, running, layout = pool.deployment, pool.checked.running, pool.checked.pool.layout
    w, c, chip = d.work, d.constants, pool.chip
    seen = pool.in_flight * pool.queries / d.layouts.attention_parallel
    bus = serving.bus_bandwidth(d.links, d.device, c)
    message = Q(seen * w.hidden * 2.0, "byte")
    yield argument("N", "ranks: tensor parallel", layout.tensor_parallel, "plan")
    yield argument("n", "tokens that an attention rank sees in a decode step", _one(seen), "plan: batch / (pp attention ranks)")
    yield argument("h", f"width of {pool.model.name}", w.hidden, pool.model.source)
    yield argument("M", "2 n h, activations in 16 bits", message.to("MB"), _HERE)
    if d.device.linked:
        yield argument("BW", f"scale-up link of {chip.name}", d.links.inside.to("GB/s"), chip.source)
        yield argument("f", "fraction of it that collectives reach", c.bus_bandwidth, pool.fitted)
        yield argument("beta", "f BW", bus.to("GB/s"), _HERE)
    else:
        yield argument("beta", "over PCIe, at most the chip's link", bus.to("GB/s"), pool.fitted)
    ring = fleet.ring_all_reduce(message, np.array([float(layout.tensor_parallel)]), bus, Q(0.0, "s"))
    yield argument("T_1", "2 (N-1)/N M/beta, an all-reduce", ring.to("ms"), _HERE)
    yield argument("L_s", "layers of a stage, with two all-reduces each", _one(serving.stage_layers(d)), pool.model.source)
    yield argument("alpha", "latency of a collective in a running engine, in all", c.collective_latency.to("us"), pool.fitted)
    parts = serving.collectives(d, seen)
    for name, time in parts.items():
        what = {"all-reduces": "all-reduces: 2 L_s T_1", "latency of collectives": "latency: alpha for each collective"}
        yield argument("t", what.get(name, name), time.to("ms"), f"{_MODEL}, collectives")
    yield argument("T", "sum of t, of a pass through one stage", serving.communication_time(d, seen).to("ms"), _HERE)
    step = running.replica.decode_step
    yield argument("pp", "pipeline stages", layout.pipeline_parallel, "plan")
    yield argument("t_decode", "a decode step, wall 4", step.to("ms"), _MODEL)
    share = serving.communication_time(d, seen) * layout.pipeline_parallel / step
    yield argument("share", "T pp / t_decode", share.to(""), _HERE)
    if running.reader is not None and running.transfer is not None and layout.prefill is not None:
        yield argument("K_s", "a prompt's cache, on one accelerator that read it", running.reader.prompt_cache.to("MB"), "wall 5")
        yield argument("K_r", "on one accelerator that decodes", running.predicted.prompt_cache.to("MB"), "wall 5")
        yield argument("s, r", "replicas that send, that receive", f"{layout.prefill.replicas}, {layout.prefill.beside}", "plan")
        yield argument("T_h", "max(K_s, K_r max(1, s/r)) / beta to other replicas", running.transfer.to("ms"),
                       f"{_MODEL}, transfer_time")  # fmt: skip


def _capital(pool: _Pool) -> Iterator[Argument]:
    row = pool.checked.pool
    yield argument("n", f"instances of {pool.offer.instance}", row.instances, "plan")
    yield argument("p", f"price of one, {row.option}", pool.offer.price.to("USD/hour"), pool.offer.source)
    yield argument("OpEx", "n p; machines are rented, so no CapEx", Q(row.cost_usd_per_h, "USD/hour"), _HERE)


def _sustainability(pool: _Pool) -> Iterator[Argument]:
    row, site, catalog = pool.checked.pool, pool.checked.site, pool.catalog
    place, method = site.region.source, pool.query.carbon.method
    yield argument("N", "accelerators", row.accelerators, "plan")
    yield argument("TDP", pool.chip.name, pool.chip.tdp, pool.chip.source)
    yield argument("s", "part of a server's nameplate that its host draws", pool.chip.host_power_share or 0.0, pool.chip.source)
    yield argument("PUE", site.region.name, site.pue, place if site.region.pue is not None else _CATALOG)
    yield argument("P", "N TDP (1 + s/(1 - s)) PUE, at full load", Q(row.power_kw, "kW"), _HERE)
    yield argument("f", "average draw as a fraction of TDP, LLM serving",
                   figure(catalog, "average draw as fraction of TDP, LLM serving"), _CATALOG)  # fmt: skip
    yield argument("CI", f"{method} intensity of the grid", site.intensity.to("gCO2e/kWh"), place)
    made = ""
    if pool.query.carbon.embodied:
        made = " + N G / life"
        yield argument("G", "to make one accelerator", "not known: none counted" if pool.chip.embodied is None
                       else pool.chip.embodied.to("kgCO2e"), pool.chip.source)  # fmt: skip
        yield argument("life", "over which that is spread", Q(figure(catalog, "accelerator amortisation life"), "year"), _CATALOG)
    yield argument("CO2", f"N TDP (f + s/(1 - s)) PUE CI{made}", Q(row.carbon_kgco2e_per_h, "kgCO2e/hour"), _HERE)
    yield argument("WUE", site.region.name, site.wue, place if site.region.wue is not None else _CATALOG)
    yield argument("W", "N TDP (f + s/(1 - s)) WUE", Q(row.water_l_per_h, "liter/hour"), _HERE)


_Figures = Callable[[_Pool], Iterator[Argument]]
# Wall -> (its equation as a serving plan's figures enter it, the figures)
_WALLS: dict[int, tuple[str, _Figures | None]] = {
    1: ("u = lambda OPs_r / (N Peak) <= 1; of a decode step T = OPs / (Peak eta)", _compute),
    2: ("M = |W| + max(B KV, KV_end) + R <= C; of a decode step T = |W| / (BW_HBM eta_m)", _memory),
    3: ("u <= eta_0; in a decode step eta = eta_0 s n / (n + n_half)", _software),
    4: ("TPOT = x times (a decode step, and the prefills that meet it) <= SLA", _serving),
    5: ("B <= B_max = floor(F / KV_a), KV_a = a 2 L H D ceil(S/p) p b", _batching),
    7: ("P_b + P(W + S > T_q - N - D) <= 1 - q, with C = Erlang-C(c, lambda S)", _tail),
    13: ("sum of the losses of weights and cache <= SLA; r = 32 / b", _fidelity),
    14: ("share = pp (2 L_s (2 (N-1)/N M/beta) + alpha for each collective + ...) / t_decode", _communication),
    17: ("OpEx = sum over pools of n p", _capital),
    18: ("CO2 = E x PUE x CI with E = N TDP (f + s/(1 - s)) in an hour; power at full load", _sustainability),
}  # fmt: skip
_UNKNOWN = {13: "no loss of quality is limited, and none was measured in this number format"}
# Walls without a part in any serve question, and why.
_ABSENT = {
    6: "weights stay in the memory of their accelerators; none are streamed in",
    8: "requests carry a few kilobytes of text; nothing is read from storage while serving",
    9: "nothing is prepared by processors beyond the host work that wall 4 counts",
    10: "replicas do not talk to each other; what one sends between its machines is wall 14",
    11: "nothing is trained",
    12: "tokens of thought are output tokens: `workload.tokens.output` counts them all",
    15: "a fleet is planned as if its machines stayed up: no spares, no restarts",
    16: "pools are not shared with other jobs; requests that wait are wall 7",
    19: "nothing is checkpointed",
    20: "no private training",
    **OF_WHOLE_PLANS,
}
