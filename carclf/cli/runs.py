"""``carclf runs``: the runs of a store, one of them, and two side by side."""

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from carclf.cli.options import StoreOption, validate_parent_folder
from carclf.cli.tables import comparison_lines, run_lines, runs_table
from carclf.errors import ConfigError
from carclf.reports.render import write_page
from carclf.runs.index import INDEX_FILE, index_row, list_runs, rebuild_index
from carclf.services.storage import open_store

runs_app = typer.Typer(help="The runs of a store, and what came of them.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
FIELDS = [*index_row({"stages": {}}), "champion"]


@runs_app.command("list")
def _list(
    store: StoreOption = "store", as_json: JsonOption = False,
    sort: Annotated[
        str, typer.Option("--sort", help=f"One of {', '.join(FIELDS)}; a - before it turns the order.")
    ] = "-created",
    limit: Annotated[int, typer.Option(min=0, help="Show the first N only; 0: all.")] = 0,
) -> None:
    """List the runs, the newest first, with their metrics, decisions and minutes."""
    name = sort.removeprefix("-")
    if name not in FIELDS:
        raise ConfigError(f"Runs cannot be sorted by {name!r}: give one of {', '.join(FIELDS)}.")
    from carclf.dashboard.liveness import mark_stale_runs

    place = open_store(store)
    found = mark_stale_runs(place, list_runs(place))
    known = [row for row in found if row[name] is not None]
    unknown = [row for row in found if row[name] is None]  # always the last
    ordered = [*sorted(known, key=lambda row: row[name], reverse=sort.startswith("-")), *unknown]
    shown = ordered[:limit] if limit else ordered
    print(*([json.dumps(shown, indent=1)] if as_json else runs_table(shown)), sep="\n")


@runs_app.command("show")
def _show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    store: StoreOption = "store", as_json: JsonOption = False,
    html: Annotated[
        Optional[Path],
        typer.Option("--html", metavar="FILE", help="Write its report there, as one file.", callback=validate_parent_folder),
    ] = None,
) -> None:
    """Show a run: its settings, its stages with their metrics, and what the gate said."""
    from carclf.dashboard.run_facts import run_facts

    if html:
        from carclf.dashboard.run_report import run_report

        write_page(html, run_report(open_store(store), run))
        return
    facts = run_facts(open_store(store), run)
    print(*([json.dumps(facts.to_json(), indent=1)] if as_json else run_lines(facts)), sep="\n")


@runs_app.command("compare")
def _compare(
    run_a: Annotated[str, typer.Argument(metavar="A", help="A run's id.")],
    run_b: Annotated[str, typer.Argument(metavar="B", help="The other run's id.")],
    store: StoreOption = "store", as_json: JsonOption = False,
) -> None:
    """Compare two runs: settings, metrics, and a paired test on the images that both validated on."""
    from carclf.dashboard.run_comparison import compare_runs

    comparison = compare_runs(open_store(store), run_a, run_b)
    print(*([json.dumps(comparison.to_json(), indent=1)] if as_json else comparison_lines(comparison)), sep="\n")


@runs_app.command("reindex")
def _reindex(store: StoreOption = "store") -> None:
    """Make the index of runs anew from the runs' records."""
    place = open_store(store)
    print(f"{INDEX_FILE} in {place.url}: {rebuild_index(place)} runs")
