"""``carclf champion``: who it is, who it was, how it came to be, and what a candidate must reach."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from carclf.artifacts import Model
from carclf.champion import find_promotion, read_state, roll_back, set_threshold
from carclf.cli.options import ResultOption, RunOption, StoreOption
from carclf.cli.tables import champion_details, champion_rows, details_table, history_table
from carclf.dashboard.run_report import run_stage_with_report
from carclf.errors import ConfigError, QualityError
from carclf.formatting import printable
from carclf.runs.mlflow_mirror import sync_champion_alias
from carclf.runs.run import Run
from carclf.services.storage import Store, format_command, open_store
from carclf.stages.chain import StageOptions

champion_app = typer.Typer(help="The champion, its history and the threshold.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
ByOption = Annotated[str, typer.Option("--by", envvar="USER", help="Who does it, for the history.")]


def _state(store: Store) -> dict[str, Any]:
    if (state := read_state(store)) is None:
        raise ConfigError(f"There is no champion in {store.url}, and none was judged yet. Give another --store, or run "
                          "the stages to promote.")
    return state


@champion_app.command("list")
def _list(store: StoreOption = "store", as_json: JsonOption = False) -> None:
    """List every champion with its metrics and its public score, and the threshold."""
    place = open_store(store)
    state = _state(place)
    found = champion_rows(place, state)
    if as_json:
        print(json.dumps({"champion": (state["champion"] or {}).get("model"), "threshold": state["threshold"],
                          "promotions": found, "history": state["history"]}, indent=1))
        return
    print(*history_table(found), sep="\n")
    print(f"The stored threshold is {state['threshold']:.4f}.")


@champion_app.command("show")
def _show(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A model's key, its beginning, or a run.")] = "",
    store: StoreOption = "store", as_json: JsonOption = False,
) -> None:
    """Show a champion, by default the present one: its metrics, why it was promoted, and where its files lie."""
    place = open_store(store)
    state = _state(place)
    if not name and state["champion"] is None:
        raise ConfigError(f"There is no champion in {place.url} yet.")
    event = find_promotion(place, state, name or state["champion"]["model"])
    found = champion_details(place, state, event)
    print(*([json.dumps(found, indent=1)] if as_json else details_table(found)), sep="\n")


@champion_app.command("promote")
def _promote(
    run: RunOption, store: StoreOption = "store", by: ByOption = "",
    override: Annotated[str, typer.Option("--override", metavar="REASON", help="Crown it though it is refused.")] = "",
    result: ResultOption = None,
) -> None:
    """Judge a run's model by the gate, approved by you, and crown it if it passes."""
    if override and not override.strip():
        raise ConfigError("--override needs a reason: it stands in the history.")
    current = Run.load(run, open_store(store))
    done = run_stage_with_report(current, "promote", StageOptions(by, override.strip()))
    if result:
        result.write_text(json.dumps(asdict(done)))
    reason = str(done.metrics["reason"])
    if done.metrics["decision"] == "rejected":
        raise QualityError(f"{reason}. To crown it nevertheless: --override REASON")
    if done.waiting:
        raise ConfigError(done.summary)
    own, now = current.artifact(Model, "fine_tune").key, _state(current.store)["champion"]["model"]
    if own != now:
        raise ConfigError(f"The model {own} of the run {run} was promoted before and is not crowned again: the "
                          f"champion is {now}. To bring it back: "
                          f"{format_command(current.store, f'champion rollback --to {own}')}")
    print(printable(reason))


@champion_app.command("rollback")
def _rollback(
    to: Annotated[str, typer.Option("--to", help="A model's key, its beginning, or a run.")] = "",
    store: StoreOption = "store", by: ByOption = "",
) -> None:
    """Make an earlier champion the champion again, by default the one before."""
    place = open_store(store)
    event = roll_back(place, to, by)
    sync_champion_alias(place)
    run = printable(str(event.get("run") or "unknown"))
    print(f"The champion is {event['model']} of the run {run}, and no more {event['previous_model']}. "
          f"The stored threshold is still {_state(place)['threshold']:.4f}: carclf champion set-threshold changes it.")


@champion_app.command("set-threshold")
def _set_threshold(
    threshold: Annotated[float, typer.Argument(min=0, max=1, help="The accuracy that a candidate must reach.")],
    store: StoreOption = "store", by: ByOption = "",
) -> None:
    """Change the stored accuracy threshold of the gate."""
    place = open_store(store)
    before = read_state(place)
    set_threshold(place, threshold, by)
    told = f"it was {before['threshold']:.4f}" if before else "there was none"
    print(f"The stored threshold in {place.url} is {threshold:.4f}; {told}.")
