"""``carclf champion``: the champion, its history, and the threshold of the gate."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from carclf.artifacts import Model
from carclf.champion import find_promotion, read_state, roll_back, set_threshold
from carclf.champion_history import State
from carclf.cli.options import JsonOption, ResultOption, RunOption, StoreOption
from carclf.cli.tables import champion_details, champion_rows, details_table, event_table, history_table
from carclf.dashboard.champion_facts import champion_facts
from carclf.dashboard.run_report import run_stage_with_report
from carclf.errors import ConfigError, NotFoundError, QualityError
from carclf.formatting import is_visible, printable
from carclf.metrics import METRICS
from carclf.redaction import redact_values
from carclf.runs.approvals import Claimant, shown_decision, waiting_candidates
from carclf.runs.mlflow_mirror import sync_champion_alias
from carclf.runs.run_names import load_run
from carclf.services.airflow import request_announcement
from carclf.services.storage import Store, format_command, require_store
from carclf.stages.chain import StageOptions
from carclf.stages.promote import PromotionOptions

champion_app = typer.Typer(help="Show, promote or roll back the champion.", no_args_is_help=True)
ByOption = Annotated[str, typer.Option("--by", envvar="USER", help="Your name, for the history.")]
MODEL_HELP = "The key of a model, the id of a run, or the first characters of one."


@champion_app.command("list")
def list_command(store_url: StoreOption = "store", as_json: JsonOption = False) -> None:
    """List all champions with their metrics and public scores, and the stored threshold."""
    store = require_store(store_url)
    state = _require_state(store)
    rows = champion_rows(store, state)
    if as_json:
        champion = (state["champion"] or {}).get("model")
        gate = {"threshold": state["threshold"], "metric": state["metric"]}
        history = {"promotions": rows, "history": state["history"]}
        print(json.dumps({"champion": champion, **gate, **history}, indent=1))
        return
    print(*history_table(rows), f"The stored threshold is {_describe(state)}.", sep="\n")


@champion_app.command()
def history(store_url: StoreOption = "store", as_json: JsonOption = False) -> None:
    """List everything that happened to the champion and the threshold: when, who, why, and the evidence."""
    events = _require_state(require_store(store_url))["history"]
    print(*([json.dumps(events, indent=1)] if as_json else event_table(events)), sep="\n")


@champion_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP} By default the champion.")] = "",
    store_url: StoreOption = "store", as_json: JsonOption = False,
) -> None:
    """Show a champion: its metrics, why it was promoted, and where its files are."""
    store = require_store(store_url)
    state = _require_state(store)
    if not name and state["champion"] is None:
        raise NotFoundError(f"There is no champion in {store.url} yet. Give the key of a model or the id of a run.")
    event = find_promotion(store, state, name or state["champion"]["model"])
    details = champion_details(store, state, event)
    print(*([json.dumps(details, indent=1)] if as_json else details_table(details)), sep="\n")


@champion_app.command()
def current(store_url: StoreOption = "store", result: ResultOption = None) -> None:
    """Print the champion as JSON, with its sequence number in the history; null if there is none."""
    facts = champion_facts(require_store(store_url))
    champion = facts.champion if facts else None
    _print_json(champion and champion.to_json(), result)


@champion_app.command()
def candidates(
    store_url: StoreOption = "store", result: ResultOption = None,
    claim: Annotated[
        str, typer.Option("--claim", metavar="NAME", help="Leave out those that another name has claimed.")
    ] = "",
    claim_hours: Annotated[
        float, typer.Option("--claim-hours", help="Hours after which the claim of another name ends.")
    ] = 25,
) -> None:
    """Print the candidates that wait for a person's approval as JSON, oldest first."""
    claimant = Claimant(claim, claim_hours) if claim else None
    _print_json(waiting_candidates(require_store(store_url), claimant), result)


def _print_json(value: object, result: Path | None) -> None:
    text = json.dumps(redact_values(value), indent=1)
    if result:
        result.write_text(text)
    else:
        print(text)


@champion_app.command()
def promote(
    run: RunOption, store_url: StoreOption = "store", by: ByOption = "",
    override: Annotated[
        Optional[str],
        typer.Option("--override", metavar="REASON", help="Promote the model even if the gate rejects it.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="A note on the approval, for the champion's history.")] = "",
    result: ResultOption = None,
) -> None:
    """Apply the gate to a run's model, with your approval, and promote the model if it passes."""
    if override is not None and not is_visible(override):
        raise ConfigError("--override needs a reason. It is stored in the champion's history.")
    if override and not is_visible(by):
        raise ConfigError("--override needs your name for the champion's history. USER is not set: give it with --by.")
    current = load_run(run, require_store(store_url))
    promotion = PromotionOptions(approved_by=by, override_reason=(override or "").strip(), note=note.strip(),
                                 shown_decision=shown_decision(current))
    decided = run_stage_with_report(current, "promote", StageOptions(promotion))
    if result:
        result.write_text(json.dumps(redact_values(asdict(decided))))
    reason = str(decided.metrics["reason"])
    if decided.metrics["decision"] == "rejected":
        raise QualityError(f"{reason}. To promote the model anyway: --override REASON")
    if decided.waiting:
        raise ConfigError(f"{decided.summary}. Give your name with --by: it is unknown, because USER is not set.")
    model = current.artifact(Model, "fine_tune").key
    champion = _require_state(current.store)["champion"]["model"]
    if model != champion:
        command = format_command(current.store, f"champion rollback --to {model}")
        raise ConfigError(f"The model {model} of run {current.run_id} was promoted before; the champion "
                          f"is now {champion}. To make {model} the champion again: {command}")
    print(printable(reason))
    request_announcement()


@champion_app.command()
def rollback(
    to: Annotated[
        Optional[str], typer.Option("--to", help=f"{MODEL_HELP} By default the previous champion.")
    ] = None,
    store_url: StoreOption = "store", by: ByOption = "",
) -> None:
    """Make an earlier champion the champion again."""
    if to is not None and not to.strip():
        raise ConfigError("--to is empty. Name a run or a model, or leave the option out for the previous champion.")
    store = require_store(store_url)
    event = roll_back(store, to or "", by)
    sync_champion_alias(store)
    run = printable(str(event.get("run") or "unknown"))
    print(f"The champion is now {event['model']} of run {run}; it replaces {event['previous_model']}. The stored "
          f"threshold is still {_describe(_require_state(store))}. To change it: carclf champion set-threshold")
    request_announcement()


@champion_app.command("set-threshold")
def set_threshold_command(
    threshold: Annotated[float, typer.Argument(help="The value that a candidate must reach.")],
    metric: Annotated[str, typer.Option(help="The metric of the threshold. By default it stays the same.")] = "",
    store_url: StoreOption = "store", by: ByOption = "",
) -> None:
    """Change the stored threshold of the gate."""
    store = require_store(store_url)
    previous = read_state(store)
    set_threshold(store, threshold, by, metric)
    change = f"it was {_describe(previous)}" if previous else "no threshold was stored before"
    print(f"The stored threshold in {store.url} is {_describe(_require_state(store))}; {change}.")


def _describe(state: State) -> str:
    return f"{state['threshold']:.4f} ({METRICS[state['metric']].noun})"


def _require_state(store: Store) -> State:
    if (state := read_state(store)) is None:
        raise NotFoundError(f"There is no champion in {store.url}, and no candidate has been judged yet. Give another "
                            "--store, or run the stages up to promote.")
    return state
