"""``carclf predict``, ``export`` and ``ensemble``: what is done with trained models."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from carclf.cli.options import SetOption, StoreOption, validate_parent_folder
from carclf.dashboard.run_report import run_stage_with_report
from carclf.errors import ServiceError
from carclf.runs.model_selection import select_model
from carclf.runs.run import Run
from carclf.services.storage import format_command, open_store

models_app = typer.Typer()
DEFAULT_FORMATS = "keras,saved_model,litert"

ModelOption = Annotated[str, typer.Option("--model", help="The model's key in the store; by default the champion's.")]
OfRunOption = Annotated[str, typer.Option("--run", help="The run whose model is meant, instead of --model.")]


@models_app.command("predict")
def _predict(
    files: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.")],
    store: StoreOption = "store", model: ModelOption = "", run: OfRunOption = "",
    top: Annotated[int, typer.Option(min=1, help="Name the N likeliest classes.")] = 3,
    json_: Annotated[bool, typer.Option("--json", help="A JSON object per line, with all classes.")] = False,
) -> None:
    """Say the class of single pictures, with calibrated probabilities; exit status 65 where some cannot be read."""
    from carclf.cli.predict import prediction_lines

    place = open_store(store)
    for line in prediction_lines(select_model(place, model, run), files, place, top=top, as_json=json_):
        print(line, flush=True)


@models_app.command("export")
def _export(
    to: Annotated[Path, typer.Option("--to", help="The folder to be made.", callback=validate_parent_folder)],
    store: StoreOption = "store", model: ModelOption = "", run: OfRunOption = "",
    format_: Annotated[str, typer.Option("--format", help="Some of keras,saved_model,onnx,litert.")] = DEFAULT_FORMATS,
) -> None:
    """Write a model in other runtimes' formats, each checked by its runtime, with a model card."""
    from carclf.export.bundle import export_model

    place = open_store(store)
    formats = [name.strip() for name in format_.split(",")]
    for name, largest in export_model(to, select_model(place, model, run), formats, place).items():
        print(f"{name:<12} probabilities differ by {largest:.1e} at most")
    print(f"{to}: model_card.md, export.json and {len(formats)} formats")


@models_app.command("ensemble")
def _ensemble(
    run: Annotated[list[str], typer.Option("--run", help="A finished run; give two or more.")],
    store: StoreOption = "store", set_: SetOption = [],
    name: Annotated[str, typer.Option("--name", help="The new run's id; by default the time.")] = "",
    submit: Annotated[bool, typer.Option(
        "--submit", help="Also submit it, whatever submit.enabled says, and ask for the score.",
    )] = False,
) -> None:
    """Join the models of finished runs, weighted by what they predicted unseen, and take them through the gate."""
    from carclf.cli.ensemble import join_runs, start_ensemble_run

    place = open_store(store)
    members = [Run.load(one, place) for one in run]
    asked = [*set_, *(["submit.enabled=true"] if submit else [])]  # else the first member's setting would say no
    joined = start_ensemble_run(name or f"ensemble-{datetime.now(UTC):%Y%m%dT%H%M%S}", members, asked)
    print(join_runs(joined, members).format_line(), flush=True)
    for stage in ("evaluate", "promote", *(("submit", "score") if submit else ())):
        result = run_stage_with_report(joined, stage)
        print(result.format_line(), flush=True)
        if result.waiting:
            approved = " --approved-by NAME" if stage == "promote" else ""  # what it waits for
            print(f"To go on: {format_command(place, f'{stage} --run {joined.run_id}')}{approved}")
        if result.waiting or result.skip_reason:
            print(f"{result.skip_reason or result.summary}; what follows is left")
            break
    if result.waiting:
        raise typer.Exit(ServiceError.exit_status)
