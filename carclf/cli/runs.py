"""``carclf runs``: list, show and compare the runs of a store."""

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from carclf.cli.completion import complete_run
from carclf.cli.options import RUN_HELP, JsonOption, StoreOption, validate_parent_folder
from carclf.cli.tables import comparison_lines, run_lines, runs_table
from carclf.dashboard.liveness import mark_stale_runs
from carclf.dashboard.run_comparison import compare_runs
from carclf.dashboard.run_facts import run_facts
from carclf.dashboard.run_report import run_report
from carclf.errors import ConfigError, DataError, NotFoundError
from carclf.formatting import format_count
from carclf.reports.render import write_page
from carclf.runs.index import INDEX_FILE, ROW_FIELDS, Row, list_runs, rebuild_index
from carclf.runs.run_names import find_run_id
from carclf.services.storage import Store, require_store

runs_app = typer.Typer(help="List, show and compare runs.", no_args_is_help=True)
SORT_FIELDS = (*ROW_FIELDS, "champion")


@runs_app.command("list")
def list_command(
    store_url: StoreOption = "store", as_json: JsonOption = False,
    sort: Annotated[
        str, typer.Option("--sort", help=f"Sort by one of {', '.join(SORT_FIELDS)}; descending with a - before it.")
    ] = "-created",
    limit: Annotated[int, typer.Option(min=0, help="Show only the first N runs; 0 shows all.")] = 0,
) -> None:
    """List the runs, newest first, with their states, metrics, decisions and minutes."""
    if sort.removeprefix("-") not in SORT_FIELDS:
        raise ConfigError(f"Cannot sort by {sort.removeprefix('-')!r}. Use one of {', '.join(SORT_FIELDS)}.")
    store = require_store(store_url)
    if not (all_rows := list_runs(store)):
        raise _no_runs(store)
    rows = _sort_rows(mark_stale_runs(store, all_rows), sort)
    rows = rows[:limit] if limit else rows
    print(*([json.dumps(rows, indent=1)] if as_json else runs_table(rows)), sep="\n")


def _no_runs(store: Store) -> NotFoundError:
    return NotFoundError(f"There are no runs in {store.url}. Give another --store, or start a run.")


def _sort_rows(rows: list[Row], sort: str) -> list[Row]:
    """Sort by a field; rows without a value are always last."""
    field = sort.removeprefix("-")
    known = [row for row in rows if row[field] is not None]
    unknown = [row for row in rows if row[field] is None]
    return [*sorted(known, key=lambda row: row[field], reverse=sort.startswith("-")), *unknown]


@runs_app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=complete_run)],
    store_url: StoreOption = "store", as_json: JsonOption = False,
    html: Annotated[
        Optional[Path],
        typer.Option("--html", metavar="FILE", help="Write the run's report to this file instead.",
                     callback=validate_parent_folder),
    ] = None,
) -> None:
    """Show a run: its settings, its stages with their metrics, and the gate's decision."""
    store = require_store(store_url)
    run_id = find_run_id(run, store)
    if html:
        write_page(html, run_report(store, run_id))
        return
    facts = run_facts(store, run_id)
    print(*([json.dumps(facts.to_json(), indent=1)] if as_json else run_lines(facts)), sep="\n")


@runs_app.command()
def compare(
    run_a: Annotated[str, typer.Argument(metavar="A", help=RUN_HELP, autocompletion=complete_run)],
    run_b: Annotated[str, typer.Argument(metavar="B", help="The other run.", autocompletion=complete_run)],
    store_url: StoreOption = "store", as_json: JsonOption = False,
) -> None:
    """Compare two runs: settings, metrics, and a paired test on their common validation images."""
    store = require_store(store_url)
    comparison = compare_runs(store, find_run_id(run_a, store), find_run_id(run_b, store))
    print(*([json.dumps(comparison.to_json(), indent=1)] if as_json else comparison_lines(comparison)), sep="\n")


@runs_app.command()
def reindex(store_url: StoreOption = "store") -> None:
    """Rebuild the index of runs from the run records."""
    store = require_store(store_url)
    if not (num_runs := rebuild_index(store)):
        raise _no_runs(store)
    print(f"{INDEX_FILE} in {store.url}: {format_count(num_runs, 'run')}")
    if damaged := [row["run"] for row in list_runs(store) if row["state"] == "damaged"]:
        raise DataError(f"The records of these runs are damaged: {', '.join(damaged)}. Restore runs/<run>.json from a "
                        "backup.")
