"""The command line. Verbs are plain; JSON alone on stdout, prose and progress on stderr.

Exit codes: 0 solved and every check holds, 1 a bug, 2 usage or invalid input, 3 proven infeasible, 4 an assert failed,
5 stopped without proof, 6 data missing or stale under --strict.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from zoo.yaml_source import Document

    from .plan import Plan
    from .program import Program
    from .query import AnyQuery, ServeQuery, TrainQuery
    from .report.tables import Table
    from .training.asking import Asker
    from .training.plan import TrainPlan

OK, BUG, USAGE, INFEASIBLE, FAILED, STOPPED = 0, 1, 2, 3, 4, 5

# pydantic would look for plug-ins in every installed package, for each of its models.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Plans AI clusters: the cheapest or cleanest fleet that meets an SLA, proven optimal and checked exactly.\n\n"
        "Start with:  wallplan solve examples/serve-llama70b.yaml\n\n"
        "Exit codes: 0 solved, 2 invalid input, 3 proven infeasible, 4 a check failed, 5 stopped without proof."
    ),
)
zoo_app = typer.Typer(
    no_args_is_help=True, help="What exists: chips, models, regions, offers, fabrics, storage.", rich_markup_mode=None
)
app.add_typer(zoo_app, name="zoo")


def _say_version(asked: bool) -> None:
    if asked:
        from .written_by import this_version

        typer.echo(f"wallplan {this_version()}")
        raise typer.Exit(OK)


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    pass


QueryFile = Annotated[Path, typer.Argument(help="The question: a YAML file (see examples/ and `wallplan schema query`).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help='Change the question, e.g. --set sla.ttft.p99="300 ms". Repeatable.'),
]
Format = Annotated[str, typer.Option("--format", "-f", help="table, json, md, csv, or html: one file to pass on.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Save the plan as JSON to this file.")]


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
PlanFile = Annotated[Path, typer.Argument(help="A plan saved with `wallplan solve -o plan.json`.")]


FORMATS = ("table", "json", "md", "csv", "html")


class _Progress:
    """One line on stderr that changes in place, after two seconds, when somebody is looking."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and sys.stderr.isatty()
        self.started = self.shown = time.perf_counter()
        self.open = False

    def __call__(self, text: str) -> None:
        now = time.perf_counter()
        if self.enabled and now - self.started > 2 and now - self.shown > 0.2:
            sys.stderr.write(f"\r\x1b[K{now - self.started:5.1f} s  {text[:100]}")
            sys.stderr.flush()
            self.shown, self.open = now, True

    def close(self) -> None:
        if self.open:
            sys.stderr.write("\r\x1b[K")


def _fail(message: str, code: int = USAGE) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(code)


def _fault(error: Exception) -> typer.Exit:
    """What a question or a plan raised: invalid input, or a proof that the time did not allow."""
    from .records import NotProven

    return _fail(str(error), STOPPED if isinstance(error, NotProven) else USAGE)


def _query(path: Path, overrides: list[str] | None) -> AnyQuery:
    from .query import load
    from .records import QueryError

    try:
        query = load(path)
        changes = _changes(overrides)
        if changes:
            query = query.override(changes)
    except QueryError as error:
        raise _fail(str(error)) from None
    return query


def _changes(overrides: list[str] | None) -> dict[str, object]:
    """What `--set` asks for, by path. Raises QueryError."""
    from .records import QueryError

    changes: dict[str, object] = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise QueryError(f'--set {override}: expected PATH=VALUE, such as --set sla.ttft.p99="300 ms"')
        changes[key.strip()] = value
    return changes


def _check_format(format: str, *known: str) -> None:
    from zoo.names import nearest

    if format not in known:
        near = nearest(format, known)
        hint = f'; did you mean "{near}"?' if near else ""
        raise _fail(f"--format {format}: unknown format; expected {', '.join(known)}{hint}")


def _find(question: AnyQuery, progress: Any) -> tuple[Plan, Program | None]:
    """The answer to a question of any kind, and the program that was solved last."""
    from .query import TrainQuery

    if isinstance(question, TrainQuery):
        from .training.solve import solve_with_program as train

        return train(question, progress)
    from .solve import solve_with_program as serve

    return serve(question, progress)


def _objective_step(question: AnyQuery) -> str:
    """What one unit of the objective of a question's program is."""
    from .query import ServeQuery, TrainQuery

    if isinstance(question, TrainQuery):
        from .training.report_units import step_of_objective

        return step_of_objective(question)
    from .prepare import objective_step

    assert isinstance(question, ServeQuery)
    return objective_step(question)


def _show_plan(plan: Plan, format: str) -> None:
    from .plan import rows
    from .report import render, tables

    def pages() -> Any:  # not loaded for plans of serve questions
        from .report import training

        return training

    serves = plan.kind != "train"
    if format == "json":
        typer.echo(plan.to_json())
    elif format == "csv" and plan.status == "infeasible":
        from .report.explain import conflict_lines

        typer.echo(render.comma_separated(conflict_lines(plan)), nl=False)
    elif format == "csv":
        typer.echo(render.comma_separated(rows(plan.fleet if serves else pages().layouts(plan))), nl=False)
    else:
        shown = tables.plan_tables(plan) if serves else pages().plan_tables(plan)
        if format in ("table", "html"):
            _show_tables(format, shown, _headline(plan))
        else:
            typer.echo(f"# {_headline(plan)}\n\n{render.markdown(shown)}", nl=False)


def _show_tables(format: str, shown: Sequence[Table], heading: str, pictures: Sequence[str] = ()) -> None:
    """Tables below a line: on the screen, or as an HTML file."""
    from .report import page, render

    if format == "html":
        typer.echo(page.page(heading, shown, pictures), nl=False)
    else:
        typer.echo(heading)
        render.terminal(shown)


def _headline(plan: Plan) -> str:
    if plan.status == "infeasible":
        from .report.tables import cut_short

        return "\n".join([f"{plan.name}: proven infeasible", *cut_short(plan)])
    if plan.objective is None:
        return f"{plan.name}: stopped without a plan and without proof"
    how = "proven optimal" if plan.status == "optimal" else "stopped without proof"
    return f"{plan.name}: {plan.objective:,.2f} {plan.objective_unit}, {how}"


@app.command()
def solve(
    query: QueryFile,
    overrides: Overrides = None,
    output: Output = None,
    format: Format = "table",
    quiet: Quiet = False,
    write_model: Annotated[
        Path | None, typer.Option("--write-model", help="Also write the program as .lp or .mps, for another solver to confirm.")
    ] = None,
) -> None:
    """Find the best plan, prove it, check it exactly, and say which walls bind.

    Example:  wallplan solve examples/serve-llama70b.yaml -o plan.json
    """
    from .records import QueryError

    _check_format(format, *FORMATS)
    if output is not None and not output.resolve().parent.is_dir():
        raise _fail(f"--output {output}: the folder {output.parent} does not exist")
    question = _query(query, overrides)
    progress = _Progress(not quiet)
    try:
        plan, program = _find(question, progress)
    except QueryError as error:
        progress.close()
        raise _fail(str(error)) from None
    progress.close()
    if write_model is not None and program is not None:
        from .write_model import write

        try:
            write(program, write_model, _objective_step(question))
        except (OSError, ValueError) as error:
            raise _fail(str(error)) from None
        typer.echo(f"{write_model}: the objective is in units of {_objective_step(question)}", err=True)
    if output is not None:
        try:
            plan.save(output)
        except OSError as error:
            raise _fail(f"--output {output}: {error.strerror}") from None
    _show_plan(plan, format)
    raise typer.Exit({"optimal": OK, "infeasible": INFEASIBLE}.get(plan.status, STOPPED))


@app.command()
def check(
    query: QueryFile,
    overrides: Overrides = None,
    format: Format = "table",
) -> None:
    """Read a question without solving it: every name is looked up, every unit checked.

    Example:  wallplan check examples/serve-llama70b.yaml
    """
    from .prepare import model_of, open_catalog
    from .records import QueryError
    from .report import tables
    from .space import machines_of, offers_of

    _check_format(format, *FORMATS)
    question = _query(query, overrides)
    try:
        catalog = open_catalog(question)
        model = model_of(question, catalog)
        offers, dropped = offers_of(question, catalog)
    except QueryError as error:
        raise _fail(str(error)) from None
    machines = machines_of(offers, catalog)
    facts = {
        "model": model.name,
        "parameters": f"{model.parameters:,.0f}",
        "offers": f"{len(offers):,} of {len(catalog.offers):,}",
        "regions": str(len({offer.region for offer in offers})),
        "chips": ", ".join(sorted({machine.accelerator.name for machine, _ in machines})),
    }
    clauses = [(clause.text, clause.path, str(clause.line or "")) for clause in question.clauses()]
    left_out = tuple((d.name, f"{d.removed:,}", d.reason) for d in dropped)
    shown = [
        tables.Table("Looked up", ("", ""), tuple(facts.items())),
        tables.Table("Clauses", ("clause", "key", "line"), tuple(clauses), frozenset({"line"})),
        tables.Table("Left out", ("clause", "offers", "reason"), left_out),
    ]
    if format in ("table", "html"):
        _show_tables(format, shown, f"{query}: the question is well formed")
        return
    flat = [
        *({"part": "looked up", "what": name, "value": value} for name, value in facts.items()),
        *({"part": "clause", "what": text, "value": path, "line": line} for text, path, line in clauses),
        *({"part": "left out", "what": name, "value": count, "reason": reason} for name, count, reason in left_out),
    ]
    _show(format, shown, {"ok": True, **facts, "clauses": [clause[0] for clause in clauses]}, flat)


@app.command()
def evaluate(
    plan: Annotated[
        Path, typer.Argument(help="A plan saved with `wallplan solve -o plan.json`, or a scenario or a replica in YAML.")
    ],
    overrides: Overrides = None,
    simulate: Annotated[
        str | None,
        typer.Option(
            "--simulate", metavar="TIME", help='Of a replica: also simulate its queue for so long, such as 10m or "600 s".'
        ),
    ] = None,
    format: Format = "table",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes on stderr; what is broken is still said there.")] = False,
) -> None:
    """Judge a saved plan, or a scenario of your own, with the forward equations alone: no solver.

    With --set the same machines answer a changed question, such as --set prices.scale=1.1: what they then cost, and which
    promises they then break.

    A scenario (`kind: scenario`) is read against all 22 walls on three levels; exit code 3 when it does not fit.

    A replica (`kind: replica`) is one engine on max(tp, ep) x pp chips: tp chips share every layer, ep chips share the experts
    of every layer (where ep exceeds tp, attention runs in ep / tp ranks), pp such groups follow each other. Give one of
    concurrency, rate and batch; measured kernels (calibration: {source: aiconfigurator}) take a concurrency or a batch, not a
    rate. prefill: {tp, replicas} and decode: {tp, replicas} in place of the degrees are replicas apart.
    With --simulate its traffic is also served step by step by a simulated engine (continuous batching, always the same random
    numbers), and the table says how far the laws are from that.

    Example:  wallplan evaluate examples/scenario-serve.yaml
    """
    from .calibrated import data_changed
    from .evaluate import evaluate as forward
    from .plan import Plan, PlanError, rows
    from .prepare import in_objective_units, objective_units
    from .records import QueryError
    from .report import render, tables
    from .solve import reload

    _check_format(format, *FORMATS)
    if overrides and not _kind_of(plan):
        raise _fail(f"--set: {plan} is no saved plan; only the question of a plan can be changed")
    if (document := _yaml(plan)) is not None:
        _evaluate_file(document, format, None if simulate is None else _duration("--simulate", simulate), quiet)
    if simulate is not None:
        raise _fail(f"--simulate: {plan} is no replica; only the queue of a replica file can be simulated")
    if _kind_of(plan) == "train":
        _evaluate_training(plan, overrides, format, quiet)
    try:
        saved = Plan.load(plan)
        if not saved.fleet:
            raise _fail(f"{plan}: the plan has no fleet ({saved.status}); there is nothing to evaluate")
        query, catalog, model, decisions = reload(saved, _changes(overrides))
        result = forward(query, catalog, model, decisions)
    except (PlanError, QueryError, ValueError) as error:
        raise _fail(str(error)) from None
    objective, unit = in_objective_units(query, result.objective), objective_units(query)[1]
    changed = [] if overrides else data_changed(query, catalog, saved.data)
    verdict = _verdict(result.violations)
    if format == "json":
        typer.echo(
            json.dumps(
                {
                    "forward_check": verdict,
                    "violations": list(result.violations),
                    "objective": objective,
                    "saved_objective": saved.objective,
                    "unit": unit,
                    "saved_unit": saved.objective_unit,
                    "data_changed": changed,
                    "fleet": [pool.model_dump(mode="json") for pool in result.pools],
                    "walls": [wall.model_dump(mode="json") for wall in result.walls],
                    "totals": result.totals,
                },
                indent=1,
            )
        )
    elif format == "csv":
        typer.echo(render.comma_separated(rows(result.pools)), nl=False)
    else:
        shown = saved.model_copy(update={"walls": result.walls, "fleet": result.pools, "totals": result.totals})
        rank = query.rank
        parts = [tables.fleet_table(shown.fleet), tables.service_table(shown.fleet, rank), tables.cost_table(shown.fleet)]
        parts += [tables.totals_table(shown), tables.walls_table(shown)]
        before = f"saved: {saved.objective:,.2f}" + (f" {saved.objective_unit}" if unit != saved.objective_unit else "")
        headline = f"{saved.name}: {objective:,.2f} {unit}, {verdict} ({before})"
        if format == "md":
            typer.echo(f"{headline}\n{render.markdown(parts)}", nl=False)
        elif format == "html":  # what goes to stderr otherwise belongs into a file to pass on
            broken = tables.Table("Broken", ("what",), tuple((violation,) for violation in result.violations))
            _show_tables(format, [broken, *parts], headline)
        else:
            _show_tables(format, parts, headline)
    told = list(result.violations)
    if not changed and not overrides:  # the same data must give the same figures: another is an edited file
        told += _edited(saved, result, objective)
    for violation in told:
        typer.echo(violation, err=True)
    _tell_of_changes(changed, quiet)
    raise typer.Exit(OK if not told else FAILED)


def _tell_of_changes(changed: Sequence[str], quiet: bool) -> None:
    for kind in changed if not quiet else ():
        typer.echo(f"note: {kind} have changed since the plan was made", err=True)


def _edited(saved: Plan, result: Any, objective: float | None) -> list[str]:
    """Figures of a saved plan that the forward models do not give from the same data."""
    found = []
    if saved.objective != objective:
        found.append(f"objective: the file says {saved.objective}, the forward models {objective}")
    for i, (old, new) in enumerate(zip(saved.fleet, result.pools, strict=True)):
        before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
        found += [
            f"fleet[{i}].{key}: the file says {before[key]}, the forward models {after[key]}"
            for key in before
            if before[key] != after[key]
        ]
    return found


def _verdict(violations: Sequence[str]) -> str:
    if not violations:
        return "every wall holds"
    return f"{len(violations)} violation" + ("s" if len(violations) > 1 else "")


def _kind_of(path: Path) -> str:
    """The kind of question that a saved plan answers; empty for what is no plan."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(data.get("kind", "")) if isinstance(data, dict) else ""


def _evaluate_training(path: Path, overrides: list[str] | None, format: str, quiet: bool) -> None:
    """A saved training plan through the forward models alone, under its own question or a changed one."""
    from .calibrated import data_changed
    from .plan import PlanError, rows
    from .records import QueryError
    from .report import render, tables, training
    from .training.check import evaluate as forward
    from .training.plan import TrainPlan
    from .training.report_units import in_units, unit_of
    from .training.solve import reload

    try:
        saved = TrainPlan.load(path)
        if saved.job is None:
            raise _fail(f"{path}: the plan has no job ({saved.status}); there is nothing to evaluate")
        question, decision = reload(saved, _changes(overrides))
        result = forward(question, decision)
    except (PlanError, QueryError, ValueError) as error:
        raise _fail(str(error)) from None
    objective, unit = in_units(question.query, result.objective), unit_of(question.query)
    changed = [] if overrides else data_changed(question.query, question.catalog, saved.data)
    verdict = _verdict(result.violations)
    if format == "json":
        facts = {
            "forward_check": verdict,
            "violations": list(result.violations),
            "objective": objective,
            "saved_objective": saved.objective,
            "unit": unit,
            "saved_unit": saved.objective_unit,
            "data_changed": changed,
            "job": result.job.model_dump(mode="json"),
            "walls": [wall.model_dump(mode="json") for wall in result.walls],
            "totals": result.totals,
        }
        typer.echo(json.dumps(facts, indent=1))
    elif format == "csv":
        typer.echo(render.comma_separated(rows([result.job])), nl=False)
    else:
        shown = saved.model_copy(update={"walls": result.walls, "job": result.job, "totals": result.totals})
        parts = [*training.job_tables(result.job), tables.walls_table(shown)]
        before = f"saved: {saved.objective:,.2f}" + (f" {saved.objective_unit}" if unit != saved.objective_unit else "")
        headline = f"{saved.name}: {objective:,.2f} {unit}, {verdict} ({before})"
        if format == "md":
            typer.echo(f"{headline}\n{render.markdown(parts)}", nl=False)
        elif format == "html":  # what goes to stderr otherwise belongs into a file to pass on
            broken = tables.Table("Broken", ("what",), tuple((violation,) for violation in result.violations))
            _show_tables(format, [broken, *parts], headline)
        else:
            _show_tables(format, parts, headline)
    told = list(result.violations)
    if not changed and not overrides:  # the same data must give the same figures: another is an edited file
        told += _changed_figure("objective", saved.objective, objective)
        old, new = saved.job.model_dump(mode="json"), result.job.model_dump(mode="json")
        for key in old:
            told += _changed_figure(f"job.{key}", old[key], new[key])
    for violation in told:
        typer.echo(violation, err=True)
    _tell_of_changes(changed, quiet)
    raise typer.Exit(OK if not told else FAILED)


def _tell_of_constants(plan: Plan, query: AnyQuery, quiet: bool) -> None:
    from .calibrated import older_constants

    if not quiet and (line := older_constants(query, plan)):
        typer.echo(f"note: {line}", err=True)


def _changed_figure(name: str, saved: Any, found: Any) -> list[str]:
    return [] if saved == found else [f"{name}: the file says {saved}, the forward models {found}"]


def _yaml(path: Path) -> Document | None:
    """The YAML file at `path`; None when it is a plan (whatever its name), other JSON, or not there."""
    from zoo.yaml_source import ZooError, read

    try:
        with path.open("rb") as file:
            start = file.read(1000).lstrip()
        if start.startswith(b"{") and (b'"schema_version"' in start or path.suffix.lower() not in (".yaml", ".yml")):
            return None
        return read(path)
    except FileNotFoundError:
        return None
    except (OSError, ZooError) as error:
        raise _fail(str(error)) from None


def _duration(option: str, text: str) -> float:
    """Seconds of a time that a user gives, in which 10m are ten minutes and not metres."""
    import re

    from zoo.units import UnitError, quantity

    try:
        seconds = float(quantity(re.sub(r"(?<=[\d.\s])m\s*$", "min", text), "time").m_as("s"))
    except UnitError as error:
        raise _fail(f"{option}: {error}") from None
    if seconds <= 0:
        raise _fail(f"{option} {text}: expected a time above zero, such as 10m")
    return seconds


def _evaluate_file(document: Document, format: str, simulated: float | None, quiet: bool) -> None:
    """`evaluate` of a YAML file, by its kind; `simulated` seconds of a replica's traffic. Ends the command."""
    kinds = ("scenario", "replica")
    kind = document.data.get("kind")
    if kind not in kinds:
        hint = "; this is a question: `wallplan solve` answers it" if kind in ("serve", "train", "procure", "place") else ""
        shown = "missing key" if kind is None else f"{json.dumps(kind, default=str)[:40]} cannot be evaluated"
        raise _fail(f"{document.path}:{document.line(('kind',))}: kind: {shown}; expected {' or '.join(kinds)}{hint}")
    if kind == "replica":
        _evaluate_replica(document, format, simulated, quiet)
    if simulated is not None:
        raise _fail(f"--simulate: {document.path} is no replica; only the queue of a replica file can be simulated")
    _evaluate_scenario(document, format)


def _evaluate_scenario(document: Document, format: str) -> None:
    from models import ImpossibleValue, UnknownValue
    from zoo.units import UnitError

    from .records import QueryError
    from .report import render, tables
    from .report import walls as pages
    from .scenario import from_document

    try:
        loaded = from_document(document)
        result = loaded.scenario.evaluate()
    except QueryError as error:
        raise _fail(str(error)) from None
    except (ImpossibleValue, UnknownValue, UnitError) as error:
        raise _fail(f"{document.path}: {error}") from None
    records = pages.evaluation_records(result)
    headline = pages.headline(loaded.scenario.name, result)
    shown: list[tables.Table] = pages.evaluation_tables(result, loaded.assumptions)
    if format == "json":
        assumptions = [{"key": key, "assumption": text} for key, text in loaded.assumptions]
        verdict = {"name": loaded.scenario.name, "feasible": result.feasible, "level": result.level, "verdict": headline}
        typer.echo(json.dumps({**verdict, "walls": records, "assumptions": assumptions}, indent=1, ensure_ascii=False))
    elif format == "csv":
        typer.echo(render.comma_separated(records), nl=False)
    elif format == "md":
        typer.echo(f"{headline}\n\n{render.markdown(shown)}", nl=False)
    else:
        _show_tables(format, shown, headline)
    raise typer.Exit(OK if result.feasible else INFEASIBLE)


def _evaluate_replica(document: Document, format: str, simulated: float | None, quiet: bool) -> None:
    from models.serving_replica import ReplicaError, evaluate_replica
    from zoo.catalog import load

    from . import measurements
    from .report import replica as pages

    progress = _Progress(not quiet)
    named, own = document.data.get("calibration"), None
    try:
        if isinstance(named, str):
            own = measurements.read("serving", Path(document.path).parent / named)
        result = evaluate_replica(document.data, load(), own)
        if simulated is not None:
            from models.replica_simulation import simulate_replica

            found = simulate_replica(document.data, result, simulated, load(), own, progress)
            progress.close()
            result = {**result, "simulation": found}
    except measurements.MeasurementsError as error:
        raise _fail(f"{document.path}:{document.line(('calibration',))}: calibration: {error}") from None
    except ReplicaError as error:
        lines = sorted((document.line(keys), text) for keys, text in error.faults)
        raise _fail("\n".join(f"{document.path}:{line}: {text}" for line, text in lines)) from None
    _show(format, pages.tables_of(result), result, pages.rows_of(result), Path(document.path).name)
    raise typer.Exit(OK if result["fits"] else INFEASIBLE)


def _training_plan(path: Path, progress: _Progress, overrides: list[str] | None = None) -> tuple[TrainPlan, TrainQuery, Asker]:
    """A saved training plan with its question, and who answers further questions about it. Fails with one line."""
    from datetime import date

    from .plan import PlanError
    from .query import TrainQuery
    from .records import QueryError
    from .training.asking import Asker
    from .training.plan import TrainPlan

    try:
        plan = TrainPlan.load(path)
        query = _looked_harder(TrainQuery.of_plan(plan), overrides)
        assert isinstance(query, TrainQuery)
    except (PlanError, QueryError) as error:
        raise _fail(str(error)) from None
    return plan, query, Asker(date.fromisoformat(query.start) if query.start else date.today(), progress)


class _Explained(NamedTuple):
    """What `explain` asks of a saved plan of one kind."""

    plan: Plan
    query: AnyQuery
    synthesis: Callable[[str, str | None], Sequence[Any]]
    alone: tuple[str, str]  # what a chip of the plan may be asked instead, and at which budget
    tornado: Callable[[], Sequence[Any]]
    choices: Collection[str]  # what can be forced
    look_up: Callable[[dict[str, str]], Any]
    why_not: Callable[[dict[str, str]], Any]
    why_not_tables: Callable[[Sequence[Any], Any], list[Table]]
    completed: Callable[[], Any]  # an infeasible plan with what was left out of its repairs
    infeasible_tables: Callable[[Any], list[Table]]
    marginals: Callable[[], Sequence[Any]]
    rows: Callable[[Sequence[Any]], list[dict[str, Any]]]


def _explained_job(path: Path, switches: bool, progress: _Progress, overrides: list[str] | None) -> _Explained:
    from .report import training as jobs
    from .report import training_explain as pages
    from .training.infeasible import completed
    from .training.marginal import marginals
    from .training.sensitivity import tornado
    from .training.synthesis import synthesis
    from .training.whynot import FORCED, question_with
    from .training.whynot import why_not as force

    saved, query, asker = _training_plan(path, progress, overrides)

    return _Explained(
        saved, query,
        lambda chip, budget: synthesis(saved, query, asker, chip, budget),
        ("a job on it at that cost", "30e6 USD"),
        lambda: tornado(saved, query, asker),
        FORCED,
        lambda one: question_with(query, one, asker),
        lambda one: force(saved, query, one, asker, switches),
        pages.why_not_tables_of,
        lambda: completed(saved, asker.question(query), asker),
        jobs.infeasible_tables,
        lambda: marginals(saved, query, asker, switches),
        pages.flat,
    )  # fmt: skip


def _explained_fleet(path: Path, switches: bool, progress: _Progress, overrides: list[str] | None) -> _Explained:
    from .columns import Memory
    from .infeasible import sought
    from .marginal import marginals
    from .plan import rows
    from .report import explain as pages
    from .report import tables
    from .sensitivity import tornado
    from .synthesis import synthesis
    from .uncertainty import guarded_query
    from .whynot import FORCED, look_up
    from .whynot import why_not as force

    saved, query = _plan_and_query(path, overrides)

    memory = Memory()

    def completed() -> Plan:
        fixes = tuple(sought(guarded_query(query), fix, Memory(), progress) for fix in saved.fixes)
        return saved.model_copy(update={"fixes": fixes})

    return _Explained(
        saved, query,
        lambda chip, budget: synthesis(saved, query, chip, budget, progress),
        ("it alone serving everything at that cost", "300 USD/h"),
        lambda: tornado(saved, query, progress),
        FORCED,
        lambda one: look_up(query, one, memory),
        lambda one: force(saved, query, one, memory, progress, switches),
        pages.why_not_tables,
        completed,
        tables.conflict_tables,
        lambda: marginals(saved, query, switches, progress),
        rows,
    )  # fmt: skip


# How hard to look, which is no part of what a saved plan answers; a gap is: values would not be differences of two optima.
_LOOKING = ("solver.time", "solver.engine", "solver.threads")


def _looked_harder(query: AnyQuery, overrides: list[str] | None) -> AnyQuery:
    """The question of a plan with another time for the solver, or another solver. Raises QueryError for any other change."""
    from zoo.names import nearest

    from .records import QueryError

    changes = _changes(overrides)
    for key in changes:
        if key not in _LOOKING:
            near = nearest(key, _LOOKING, cutoff=0.8)
            hint = f'; did you mean "{near}"?' if near else "; solve the changed question and explain that plan"
            raise QueryError(f"--set {key}: the plan answers its own question; expected one of {', '.join(_LOOKING)}{hint}")
    return query.override(changes) if changes else query


def _plan_and_query(path: Path, overrides: list[str] | None = None) -> tuple[Plan, ServeQuery]:
    """A saved plan with its question. Fails with one line when the file is no plan of a serve question."""
    from .plan import Plan, PlanError
    from .query import Query, ServeQuery
    from .records import QueryError

    try:
        plan = Plan.load(path)
        query = Query.of_plan(plan)
        if isinstance(query, ServeQuery):
            query = _looked_harder(query, overrides)
    except (PlanError, QueryError) as error:
        raise _fail(str(error)) from None
    if not isinstance(query, ServeQuery):
        raise _fail(f"{path}: only plans of serve and train questions can be explained")
    return plan, query


@app.command()
def explain(
    plan: PlanFile,
    why_not: Annotated[
        list[str] | None,
        typer.Option("--why-not", metavar="KEY=VALUE", help='Force a choice on the whole fleet: "chip=l40s,tp=8". Repeatable.'),
    ] = None,
    wall: Annotated[str | None, typer.Option("--wall", help="One wall's equation with this plan's numbers.")] = None,
    switches: Annotated[
        bool,
        typer.Option(
            "--switches",
            help="Also what 1 % less costs, and how far limits move until the plan changes, --why-not wins or there is one.",
        ),
    ] = False,
    tornado: Annotated[bool, typer.Option("--tornado", help="The optimum at both ends of what is uncertain.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="With --tornado: draw it (.svg, .png or .pdf).")] = None,
    synthesis: Annotated[
        str | None, typer.Option("--synthesis", metavar="CHIP", help="What a chip would have to be to enter the plan.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help='With --synthesis: to do it alone at this cost: "300 USD/h", a job "30e6 USD".')
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help='Look longer: --set solver.time="5 min" for each re-solve. Repeatable.'),
    ] = None,
    format: Format = "table",
    quiet: Quiet = False,
) -> None:
    """Say which walls bind, what 1 % more of each is worth, and why the plan is not another.

    Example:  wallplan explain plan.json --why-not "chip=l40s" --why-not "tp=8"
    """
    from .plan import PlanError, needs_objective
    from .records import QueryError
    from .report import explain as pages
    from .report import tables
    from .whynot import parse

    _check_format(format, *FORMATS)
    for name, given, needs, there in (("--plot", plot, "--tornado", tornado), ("--budget", budget, "--synthesis", synthesis)):
        if given is not None and not there:
            raise _fail(f"{name} {given}: only together with {needs}")
    _check_picture(plot)
    if wall is not None and overrides:
        raise _fail(f"--set {overrides[0]}: --wall {wall} solves nothing")
    if wall is not None:
        _explain_wall(plan, _wall_number(wall), format)
    progress = _Progress(not quiet)
    asked = (_explained_job if _kind_of(plan) == "train" else _explained_fleet)(plan, switches, progress, overrides)
    saved = asked.plan
    _tell_of_constants(saved, asked.query, quiet)
    shown: list[tables.Table]
    records: Sequence[Any]
    try:
        if synthesis is not None:
            records = asked.synthesis(synthesis, budget)
            shown = [pages.synthesis_table(records, saved, budget)]
            if not records:
                typer.echo(_in_the_plan(synthesis, *asked.alone), err=True)
        elif tornado:
            needs_objective(saved, "whose objective could swing", str(plan))
            records = asked.tornado()
            shown = pages.tornado_tables(records)
            _draw(list(records), saved.name, plot)
        elif why_not:
            parsed = [parse(text, asked.choices) for text in why_not]
            forces = [one for i, one in enumerate(parsed) if one not in parsed[:i]]
            for one in forces:  # every name is looked up before anything is solved
                asked.look_up(one)
            records = [asked.why_not(one) for one in forces]
            shown = asked.why_not_tables(records, saved)
        elif saved.status == "infeasible":
            if switches:
                saved = asked.completed()
                progress.close()
            shown, _ = _whole(format, saved, asked.infeasible_tables(saved), [])
            _show(format, shown, pages.why_infeasible(saved), pages.conflict_lines(saved), _headline(saved))
            raise typer.Exit(OK)
        else:
            needs_objective(saved, "whose walls could be moved", str(plan))
            records = asked.marginals()
            shown = [tables.walls_table(saved), pages.marginal_table(records), pages.switch_table(records)]
    except (PlanError, QueryError) as error:
        progress.close()
        raise _fault(error) from None
    progress.close()
    shown, pictures = _whole(format, saved, shown, records)
    lines = asked.rows(records)
    _show(format, shown, [record.model_dump(mode="json") for record in records], lines, _headline(saved), pictures)
    if not all(getattr(record, "proven", True) for record in records):
        raise typer.Exit(STOPPED)


def _in_the_plan(chip: str, goal: str, budget: str) -> str:
    """That a chip has nothing to become, and what to ask instead."""
    return f'--synthesis {chip}: in the plan already; ask for another chip, or with --budget "{budget}" for {goal}'


def _whole(format: str, plan: Plan, shown: list[Table], records: Sequence[Any]) -> tuple[list[Table], list[str]]:
    """(tables, pictures) of an explanation: a file to pass on also has the certificate, and the tornado as a picture."""
    from .plan import Swing
    from .report import picture, tables, training

    if format != "html":
        return shown, []
    certificate = tables.certificate_table if plan.kind != "train" else training.certificate_table
    swings = bool(records) and isinstance(records[0], Swing)
    drawn = swings and picture.can_draw()
    if swings and not drawn:
        typer.echo("without its picture, which needs matplotlib: pip install 'wallplan[plot]'", err=True)
    return [*shown, certificate(plan)], [picture.tornado_svg(records, plan.name)] if drawn else []  # type: ignore[arg-type]


def _explain_wall(path: Path, number: int, format: str) -> None:
    """`explain --wall` of a plan of either kind. Ends the command."""
    from .plan import Plan, PlanError
    from .records import QueryError
    from .report import explain as pages
    from .training.plan import TrainPlan

    try:
        if _kind_of(path) == "train":
            from .training.arguments import page_of as of_job

            page = of_job(TrainPlan.load(path), number)
        else:
            from .arguments import page_of

            page = page_of(Plan.load(path), number)
    except (PlanError, QueryError, ValueError) as error:
        raise _fail(str(error)) from None
    _show(
        format,
        pages.wall_tables(page),
        page.model_dump(mode="json"),
        pages.wall_lines(page),
        f"{path}: wall {number}, {page.name}",
    )
    raise typer.Exit(OK)


def _check_picture(path: Path | None) -> None:
    from .report.picture import NoPicture, check

    try:
        if path is not None:
            check(path)
    except NoPicture as error:
        raise _fail(f"--plot {error}") from None


def _draw(swings: list[Any], name: str, path: Path | None) -> None:
    from .report.picture import NoPicture, tornado

    try:
        if path is not None:
            tornado(swings, name, path)
    except NoPicture as error:
        raise _fail(f"--plot {error}") from None


@app.command()
def alternatives(
    plan: PlanFile,
    within: Annotated[str, typer.Option("--within", help="How much worse a plan may be, such as 5%.")] = "5%",
    format: Format = "table",
    quiet: Quiet = False,
) -> None:
    """List plans that really differ: the cheapest per chip and region, and within a tolerance other options, layouts, mixes.

    Example:  wallplan alternatives plan.json --within 10%
    """
    from zoo.units import UnitError, quantity

    from .alternatives import alternatives as find
    from .plan import PlanError, needs_objective, rows
    from .prepare import prepare
    from .records import QueryError
    from .report import explain as pages
    from .uncertainty import guarded_query

    _check_format(format, *FORMATS)
    try:
        tolerance = float(quantity(within, "fraction").m_as("dimensionless"))
    except UnitError as error:
        raise _fail(f"--within: {error}") from None
    if not 0 <= tolerance <= (100 if "%" in within else 1):
        raise _fail(f"--within {within}: expected a share such as 5% or 0.05")
    if _kind_of(plan) == "train":
        _training_alternatives(plan, within, tolerance, format, quiet)
    saved, query = _plan_and_query(plan)
    progress = _Progress(not quiet)
    try:
        needs_objective(saved, "to vary", str(plan))
        found = find(saved, prepare(guarded_query(query), progress), tolerance, progress)
    except (PlanError, QueryError) as error:
        progress.close()
        raise _fault(error) from None
    progress.close()
    _show(
        format,
        pages.alternatives_tables(found, within),
        [a.model_dump(mode="json") for a in found],
        rows(found),
        _headline(saved),
    )
    if not any(one.within for one in found):
        tried = "wholly of another chip, region, purchase option, precision, degree of parallelism or way of disaggregation"
        mixes = ", or with fewer of the plan's chips, clouds or options," if query.supply.mixed else ""
        typer.echo(f"no plan {tried}{mixes} comes within {within}", err=True)


def _training_alternatives(path: Path, within: str, tolerance: float, format: str, quiet: bool) -> None:
    """`alternatives` of a training plan. Ends the command."""
    from .records import QueryError
    from .report import training_explain as pages
    from .training.alternatives import alternatives as find

    progress = _Progress(not quiet)
    saved, query, asker = _training_plan(path, progress)
    if saved.job is None:
        raise _fail(f"{path}: the plan has no job ({saved.status}); there is nothing to look for alternatives to")
    try:
        found = find(saved, query, tolerance, asker)
    except QueryError as error:
        progress.close()
        raise _fault(error) from None
    progress.close()
    records = [one.model_dump(mode="json") for one in found]
    _show(format, pages.alternatives_tables(found, within), records, pages.flat(found), _headline(saved))
    if not any(one.within for one in found):
        typer.echo(f"no other chip, region, purchase option or split comes within {within}", err=True)
    raise typer.Exit(OK)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="A saved plan.")],
    new: Annotated[Path, typer.Argument(help="Another saved plan.")],
    format: Format = "table",
) -> None:
    """Show what differs between two saved plans.

    Example:  wallplan compare plan.json new.json
    """
    from .compare import compare as differences
    from .plan import Plan, PlanError, rows
    from .report import explain as pages
    from .training.compare import compare as training_differences
    from .training.plan import TrainPlan

    _check_format(format, *FORMATS)
    kinds = [_kind_of(path) for path in (old, new)]
    try:
        if kinds == ["train", "train"]:
            found = training_differences(TrainPlan.load(old), TrainPlan.load(new))
        elif "train" in kinds and all(kinds):
            raise _fail(
                f"{old} answers a {kinds[0]} question and {new} a {kinds[1]} question: only plans of one kind can be compared"
            )
        else:
            found = differences(Plan.load(old), Plan.load(new))
    except PlanError as error:
        raise _fail(str(error)) from None
    records = [difference.model_dump(mode="json") for difference in found]
    if format == "table" and not found:
        typer.echo(f"{old} and {new}: no difference")
    _show(format, [pages.comparison_table(found)], records, rows(found), f"{old} and {new}{'' if found else ': no difference'}")


def _wall_number(text: str) -> int:
    from models.wall import walls as known
    from zoo.errors import UnknownName

    try:
        return known[text].number
    except UnknownName as error:
        raise _fail(f"--wall {text}: {error}; `wallplan walls` lists them all") from None


def _show(
    format: str, shown: list[Any], records: Any, flat: list[dict[str, Any]], heading: str = "", pictures: Sequence[str] = ()
) -> None:
    """Tables or records, in the format asked for. heading, pictures: of an HTML file."""
    from .report import render

    if format == "json":
        typer.echo(json.dumps(records, indent=1, ensure_ascii=False))
    elif format == "csv":
        typer.echo(render.comma_separated(flat), nl=False)
    elif format == "md":
        typer.echo((f"# {heading}\n\n" if heading else "") + render.markdown(shown), nl=False)
    elif format == "html":
        _show_tables(format, shown, heading, pictures)
    else:
        render.terminal(shown)


_WITH = typer.Option(
    "--with",
    metavar="COLUMN=VALUE",
    help="What a file of serving measurements leaves empty (hardware=H100, tp=4 ...). Repeatable; what the file states stays.",
)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _columns_given(option: str, texts: list[str] | None, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts or []:
        column, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise _fail(f"{option} {text}: expected COLUMN=VALUE, such as {example}")
        known = found.setdefault(column.strip(), value.strip())
        if known != value.strip():
            raise _fail(f"{option} {text}: {column.strip()} is given twice, and was {known} before")
    return found


@app.command()
def validate(
    kind: Annotated[str, typer.Argument(help="training or serving.")],
    measurements: Annotated[
        Path, typer.Option("--measurements", "-m", help="CSV with the project's measurement columns, or vLLM / AIPerf JSON.")
    ],
    calibration: Annotated[Path | None, typer.Option("--calibration", help="Constants written by `wallplan calibrate`.")] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", metavar="COLUMN=VALUE", help="First refit without these stored rows (model=...)."),
    ] = None,
    facts: Annotated[list[str] | None, _WITH] = None,
    format: Format = "table",
) -> None:
    """Compare predictions with measurements: per row, per group, and whether the stated intervals hold.

    MAPE and median are of |predicted / measured - 1|; bias is the median of ln(predicted / measured) for serving, the mean of
    predicted / measured - 1 for training; inside is the share of measurements inside the 80 % interval.

    Example:  wallplan validate serving --measurements my_bench.csv --format json
    """
    from zoo.names import nearest

    from . import measurements as measured
    from .report import measurements as pages

    if kind not in measured.KINDS:
        near = nearest(kind, measured.KINDS)
        raise _fail(f"{kind}: unknown kind; expected training or serving" + (f'; did you mean "{near}"?' if near else ""))
    _check_format(format, *FORMATS)
    if leave_out and calibration is not None:
        raise _fail(f"--leave-out {leave_out[0]}: refits the stored constants, which --calibration replaces: give one of them")
    excluded = _columns_given("--leave-out", leave_out, "model=Llama-3.1-70B")
    try:
        given = _columns_given("--with", facts, "hardware=H100")
        report = measured.validate(kind, measurements, calibration, excluded, given, _tell)
    except measured.MeasurementsError as error:
        raise _fail(str(error)) from None
    for line in measured.unread(kind, measurements):
        typer.echo(line, err=True)
    _show(format, pages.report_tables(kind, report), report, report["predictions"], f"{measurements}: {kind}")


@app.command()
def calibrate(
    source: Annotated[
        list[Path], typer.Option("--from", help="CSV of measurements, or vLLM / AIPerf JSON (runs line by line too). Repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the constants (YAML).")],
    facts: Annotated[list[str] | None, _WITH] = None,
) -> None:
    """Refine the stored constants by your own measurements; the stored ones are the priors.

    Example:  wallplan calibrate --from my_bench.csv -o my_calibration.yaml
    """
    from . import measurements as measured

    if not output.resolve().parent.is_dir():
        raise _fail(f"--output {output}: the folder {output.parent} does not exist")
    try:
        kinds = {measured.kind_of(path) for path in source}
        if len(kinds) > 1:
            raise _fail("--from: training and serving measurements cannot be mixed in one calibration")
        kind = kinds.pop()
        document, summary = measured.calibrate(kind, source, _columns_given("--with", facts, "hardware=H100"), _tell)
        measured.save(document, output)
    except measured.MeasurementsError as error:
        raise _fail(str(error)) from None
    except OSError as error:
        raise _fail(f"--output {output}: {error.strerror}") from None
    for reason in summary["skipped"]:
        typer.echo(f"not used: {reason}", err=True)
    typer.echo(f"{output}: {kind} constants refined by {summary['rows']} row{'s' if summary['rows'] != 1 else ''}", err=True)


@app.command()
def schema(what: Annotated[str, typer.Argument(help="query, plan or scenario.")] = "query") -> None:
    """Print a JSON Schema, for editors and other programs.

    Example:  wallplan schema query > query.schema.json
    """
    if what == "query":
        from .query import query_schema

        document: dict[str, Any] = query_schema()
    elif what == "plan":
        from .plan import Plan

        document = Plan.model_json_schema()
    elif what == "scenario":
        from .scenario import scenario_schema

        document = scenario_schema()
    else:
        raise _fail(f'{what}: unknown schema; expected "query", "plan" or "scenario"')
    typer.echo(json.dumps(document, indent=1))


@app.command()
def walls(
    wall: Annotated[str, typer.Argument(help="A wall by number or name, such as 14 or communication. Left out: all.")] = "",
    format: Format = "table",
) -> None:
    """List the 22 walls that bound an AI system, or show one with its equation, units, assumptions and a worked number.

    Example:  wallplan walls 14
    """
    from models.wall import walls as known
    from zoo.errors import UnknownName

    from .report import walls as pages

    _check_format(format, *FORMATS)
    shown: list[Any]
    records: Any
    if wall:
        try:
            shown, records = pages.page(known[wall])
        except UnknownName as error:
            raise _fail(f"{error}; `wallplan walls` lists them all") from None
    else:
        table, records = pages.listing(known)
        shown = [table]
    heading = f"Wall {records['number']}: {records['name']}" if wall else "The walls that bound an AI system"
    _show(format, shown, records, pages.flat(records) if wall else records, heading)


KINDS = ("chips", "models", "regions", "offers", "fabrics", "storage")


@zoo_app.command("list")
def zoo_list(
    kind: Annotated[str, typer.Argument(help="chips, models, regions, offers, fabrics or storage.")],
    match: Annotated[str, typer.Option("--match", "-m", help='Only names with this in them, or a pattern such as "aws/*".')] = "",
    zoo: Annotated[list[Path] | None, typer.Option("--zoo", help="A zoo file of your own. Repeatable.")] = None,
    format: Format = "table",
) -> None:
    """List what the zoo knows of a kind.

    Example:  wallplan zoo list chips
    """
    from .report import catalog as pages

    _check_format(format, *FORMATS)
    table, records = pages.listing(_catalog(zoo), _kind(kind), match)
    _show(format, [table], records, records, f"{len(records)} {kind}")
    if format == "table":
        typer.echo(f"{len(records)} {kind}", err=True)


@zoo_app.command("show")
def zoo_show(
    name: Annotated[str, typer.Argument(help="A name of any kind, such as h100-sxm, llama-3.1-70b or aws/us-east-1.")],
    zoo: Annotated[list[Path] | None, typer.Option("--zoo", help="A zoo file of your own. Repeatable.")] = None,
    format: Format = "table",
) -> None:
    """Show one record whole, with its source.

    Example:  wallplan zoo show h100-sxm
    """
    from zoo.errors import UnknownName

    from .report import catalog as pages

    _check_format(format, *FORMATS)
    try:
        table, record = pages.page(_catalog(zoo), name, KINDS)
    except UnknownName as error:
        raise _fail(str(error)) from None
    _show(format, [table], record, [dict(zip(table.heads, row, strict=True)) for row in table.rows], name)


def _kind(kind: str) -> str:
    from zoo.names import nearest

    if kind not in KINDS:
        near = nearest(kind, KINDS, cutoff=0.4)
        raise _fail(f"{kind}: unknown kind; expected {', '.join(KINDS)}" + (f'; did you mean "{near}"?' if near else ""))
    return kind


def _catalog(files: list[Path] | None) -> Any:
    from zoo.catalog import load
    from zoo.errors import ZooError

    try:
        return load(files or [])
    except ZooError as error:
        raise _fail(str(error)) from None


def main() -> None:
    """Entry point of the command `wallplan`."""
    gc.set_threshold(1_000_000)  # a command keeps nearly all that it makes: looking for garbage took a tenth of its time
    try:
        app()
    except BrokenPipeError:  # the reader of a pipe left: not an error
        sys.stderr.close()
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
