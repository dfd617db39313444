"""A command for each stage, and ``carclf run``, which runs all stages in order."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from carclf.cli.options import (
    NewRunOption,
    RecipeOption,
    ResultOption,
    RunOption,
    SetOption,
    StoreOption,
)
from carclf.config import load_settings, parse_override
from carclf.dashboard.run_report import run_stage_to_end, run_stage_with_report, write_report
from carclf.errors import ConfigError, NotFoundError, ServiceError
from carclf.formatting import is_visible
from carclf.redaction import redact_values
from carclf.runs.approvals import end_request, release_claim, shown_decision
from carclf.runs.record import NOTHING_NEW
from carclf.runs.run import Result, Run, record_rejection
from carclf.runs.run_names import load_run
from carclf.runs.unchanged import find_unchanged_run
from carclf.services.storage import Store, format_command, init_store, require_store
from carclf.stages.chain import STAGES, StageOptions
from carclf.stages.promote import PromotionOptions

CreateStoreOption = Annotated[
    bool, typer.Option("--create-store", envvar="CARCLF_CREATE_STORE", help="Create the store if it does not exist.")
]
SKIP_REMAINING = 99  # the exit status after which the DAG skips the remaining stages


def add_stage_commands(app: typer.Typer) -> None:
    """Add a command for each stage; the docstring of the stage's module is its help."""
    special: dict[str, Callable[..., None]] = {"download": _download, "promote": _promote}
    for name in STAGES:
        text = (sys.modules[f"carclf.stages.{name}"].__doc__ or "").strip()
        app.command(name, help=text)(special.get(name) or _stage_command(name))


def _download(
    run: NewRunOption, store_url: StoreOption = "store", recipe: RecipeOption = "gpu", set_: SetOption = [],
    create_store: CreateStoreOption = False,
    skip_unchanged: Annotated[
        bool, typer.Option("--skip-unchanged", help="End the run if a completed run had the same data, settings and "
                                                    "code. The exit status is then 99.")
    ] = False,
    result: ResultOption = None,
) -> None:
    new_run = _start_or_resume(run, _open_store(store_url, create_store), recipe, set_)
    downloaded = run_stage_with_report(new_run, "download")
    if skip_unchanged and (unchanged := find_unchanged_run(new_run)):
        downloaded = new_run.skip_remaining(downloaded, f"{NOTHING_NEW}: run {unchanged} had the same data, settings "
                                                        "and code")
    _finish(downloaded, result)


def _start_or_resume(run_id: str, store: Store, recipe: str, settings: list[str]) -> Run:
    """Start or resume a run; record it if its settings are rejected."""
    try:
        return Run.start_or_resume(run_id, store, recipe, load_settings(recipe, settings))
    except ConfigError as error:
        record_rejection(run_id, store, recipe, dict(parse_override(text) for text in settings if "=" in text), error)
        raise


def _promote(
    run: RunOption, store_url: StoreOption = "store",
    approved_by: Annotated[
        str, typer.Option("--approved-by", metavar="NAME", help="The person who approved the promotion.")
    ] = "",
    declined_by: Annotated[
        str, typer.Option("--declined-by", metavar="NAME", help="Record the person who declined the promotion.")
    ] = "",
    expired: Annotated[bool, typer.Option("--expired", help="Record that nobody responded in time.")] = False,
    note: Annotated[str, typer.Option("--note", help="A note on the approval, for the champion's history.")] = "",
    shown: Annotated[
        str, typer.Option("--shown", metavar="DECISION", help="The key of the decision that the person saw; by "
                          "default the one that the run shows.")
    ] = "",
    result: ResultOption = None,
) -> None:
    if sum((bool(approved_by), bool(declined_by), expired)) > 1:
        raise ConfigError("Use only one of --approved-by, --declined-by and --expired.")
    by, note = (approved_by or declined_by).strip(), note.strip()
    if (approved_by or declined_by) and not is_visible(by):
        raise ConfigError("The name of the person who approved or declined is empty.")
    store = require_store(store_url)
    promotion = PromotionOptions(approved_by=by, note=note, shown_decision=shown)
    action: Literal["declined", "expired", ""] = "declined" if declined_by else "expired" if expired else ""
    try:
        outcome = _decide(load_run(run, store), promotion, action, by)
    except ConfigError as error:
        # A response to a question of car_promote that is not allowed, or the policy is invalid: another run asks again.
        if shown and not isinstance(error, NotFoundError):
            release_claim(store, run)
        raise
    _finish(outcome, result)


def _decide(run: Run, promotion: PromotionOptions, action: Literal["declined", "expired", ""], by: str) -> Result:
    """Run the gate, or end a request for approval; update the run's report."""
    if action:
        ended = end_request(run, action, by=by, note=promotion.note, shown=promotion.shown_decision)
        write_report(run)
        return ended
    shown = promotion.shown_decision or shown_decision(run)
    return run_stage_with_report(run, "promote", StageOptions(replace(promotion, shown_decision=shown)))


def _stage_command(stage: str) -> Callable[..., None]:
    def command(run: RunOption, store_url: StoreOption = "store", result: ResultOption = None) -> None:
        _finish(run_stage_with_report(load_run(run, require_store(store_url)), stage), result)

    return command


def _finish(result: Result, path: Path | None) -> None:
    """Write the result and exit with the status that the DAG's task expects."""
    if path:
        path.write_text(json.dumps(redact_values(asdict(result))))
    if result.skip_reason:
        raise typer.Exit(SKIP_REMAINING)
    if result.waiting:  # the reason has been logged
        raise typer.Exit(ServiceError.exit_status)


def run_all(
    store_url: StoreOption = "store", recipe: RecipeOption = "gpu", set_: SetOption = [],
    run_id: Annotated[str, typer.Option("--run", help="The id of the run; by default the recipe and the time.")] = "",
    create_store: CreateStoreOption = False,
) -> None:
    """Run every stage in order, without Airflow. The command resumes a run with the same id and settings."""
    if not run_id:
        load_settings(recipe, set_)  # an unnamed run is recorded only if its settings are valid
        run_id = f"{recipe}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    run = _start_or_resume(run_id, _open_store(store_url, create_store), recipe, set_)
    for stage in run.stages:
        result = run_stage_to_end(run, stage)
        if result.waiting:
            print(f"{result.summary}\nTo continue with {stage}: {format_command(run.store, f'{stage} --run {run_id}')}")
            raise typer.Exit(ServiceError.exit_status)
        print(result.format_line(), flush=True)
        if result.metrics.get("public_score") == "":
            print("The competition has no public score.")
        if result.skip_reason:
            print(f"{result.skip_reason}; the remaining stages are skipped")
            break


def _open_store(url: str, create: bool) -> Store:
    return init_store(url) if create else require_store(url)
