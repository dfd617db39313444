"""``carclf predictions``: predict the images of a bucket or a folder, and read the predictions."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from carclf.cli.options import JsonOption, ModelOption, ResultOption, StoreOption, validate_parent_folder
from carclf.cli.tables import format_table
from carclf.errors import ConfigError
from carclf.formatting import format_count
from carclf.progress import log
from carclf.runs.model_selection import SelectedModel, select_model
from carclf.runs.predictor import load_predictor
from carclf.services.storage import Store, require_store

if TYPE_CHECKING:
    import pandas as pd

    from carclf.batch_prediction.plan import Plan
    from carclf.batch_prediction.shard_files import ShardId

predictions_app = typer.Typer(help="Predict the images of a bucket or a folder, each image once.", no_args_is_help=True)
SHARD_SIZE = 1000
MAX_GROUPS = 1000  # Airflow's limit of mapped tasks is 1,024
SourceOption = Annotated[
    str, typer.Option("--source", envvar="CARCLF_PREDICT_SOURCE", help="The images: s3://bucket/prefix or a folder.")
]
ShardSizeOption = Annotated[
    int, typer.Option("--shard-size", envvar="CARCLF_PREDICT_SHARD_SIZE", min=1, help="The most images in a shard.")
]
UncertainOption = Annotated[
    int, typer.Option("--uncertain", min=0, help="Only the N images with the lowest probability of their class.")
]


@predictions_app.command("status")
def status_command(
    source: SourceOption, store_url: StoreOption = "store", model: ModelOption = "", as_json: JsonOption = False
) -> None:
    """Show how many images the model has not predicted. No image is opened."""
    from carclf.batch_prediction.plan import describe_new, open_source

    store = require_store(store_url)
    status = describe_new(store, select_model(store, model).model.key, open_source(source))
    print(json.dumps(status) if as_json else
          f"{format_count(status['num_images'], 'image')}, {status['num_new_images']} new or changed")


@predictions_app.command("plan")
def plan_command(
    source: SourceOption, store_url: StoreOption = "store", model: ModelOption = "",
    shard_size: ShardSizeOption = SHARD_SIZE,
    max_groups: Annotated[
        int, typer.Option("--max-groups", min=1, max=MAX_GROUPS, help="Divide the shards among at most N tasks.")
    ] = 16,
    result: ResultOption = None,
) -> None:
    """List the images that the model has not predicted, divide them into shards, and print the unfinished shards."""
    store = require_store(store_url)
    selected = select_model(store, model)
    plan = _plan(store, selected, source, shard_size)
    groups = [[str(shard) for shard in group] for group in plan.groups(max_groups)]
    for group in groups:
        print(*group, sep=",")
    _write_result({"model": selected.model.key, "groups": groups, "num_new": plan.num_new}, result)


@predictions_app.command("shard")
def shard_command(
    shards: Annotated[str, typer.Argument(help="The ids of shards that plan printed, separated by commas.")],
    source: SourceOption, store_url: StoreOption = "store", model: ModelOption = "", result: ResultOption = None,
) -> None:
    """Predict the images of shards; finished shards are skipped."""
    from carclf.batch_prediction.shard_files import ShardId

    store = require_store(store_url)
    selected = select_model(store, model)
    counts = _predict(store, selected, source, [ShardId.parse(text) for text in shards.split(",")])
    _write_result(counts, result)


@predictions_app.command("run")
def run_command(
    source: SourceOption, store_url: StoreOption = "store", model: ModelOption = "",
    shard_size: ShardSizeOption = SHARD_SIZE,
) -> None:
    """Plan and predict all shards on this machine. If it is interrupted, the same command continues it."""
    store = require_store(store_url)
    selected = select_model(store, model)
    counts = _predict(store, selected, source, _plan(store, selected, source, shard_size).shards)
    left = f"; {counts['num_left']} left for the next plan" if counts["num_left"] else ""
    print(f"{format_count(counts['num_images'], 'image')} predicted, of which {counts['num_unreadable']} are not "
          f"readable{left}")


@predictions_app.command("show")
def show_command(
    source: SourceOption, store_url: StoreOption = "store", model: ModelOption = "", uncertain: UncertainOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Print the number of images per predicted class, or the most uncertain images with their probabilities.

    Images that are not readable are counted per reason.
    """
    from carclf.batch_prediction.table import most_uncertain

    rows = _read_rows(require_store(store_url), model, source, is_summary=True)
    if uncertain:
        table = most_uncertain(rows, uncertain)[["id", "class", "probability"]]
    else:
        rows["class"] = rows["class"].fillna("(not readable)")
        groups = rows.groupby(["class", "problem"])
        table = groups.agg(num_images=("id", "size"), mean_probability=("probability", "mean")).reset_index()
        table = table.sort_values("num_images", ascending=False)
        table = table[["class", "num_images", "mean_probability", *(["problem"] if any(table["problem"]) else [])]]
    print(_to_json(table) if as_json else _to_text(table))


@predictions_app.command("export")
def export_command(
    source: SourceOption,
    to: Annotated[
        Path, typer.Option("--to", help="The file to write: .csv or .parquet.", callback=validate_parent_folder)
    ],
    store_url: StoreOption = "store", model: ModelOption = "", uncertain: UncertainOption = 0,
) -> None:
    """Write one table with the newest prediction of each image."""
    from carclf.batch_prediction.table import most_uncertain

    if to.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--to {to}: the format {to.suffix!r} is unknown. Use the suffix .csv or .parquet.")
    rows = _read_rows(require_store(store_url), model, source)
    table = most_uncertain(rows, uncertain) if uncertain else rows
    if to.suffix == ".csv":
        table.to_csv(to, index=False)
    else:
        table.to_parquet(to, index=False)
    print(f"{to}: {format_count(len(table), 'image')}")


@predictions_app.command("pseudo-labels")
def pseudo_labels_command(
    source: SourceOption,
    to: Annotated[
        Path, typer.Option("--to", help="The folder to create, with one per class.", callback=validate_parent_folder)
    ],
    store_url: StoreOption = "store", model: ModelOption = "",
    min_probability: Annotated[
        float, typer.Option("--min-probability", min=0, max=1, help="The least calibrated probability of the class.")
    ] = 0.95,
) -> None:
    """Copy the images that the model is sure of into class folders, for download.extra_data."""
    from carclf.batch_prediction.plan import open_source
    from carclf.batch_prediction.pseudo_labels import copy_confident

    rows = _read_rows(require_store(store_url), model, source, is_summary=True, with_version=True)
    counts = copy_confident(rows, open_source(source), to, min_probability)
    print(_to_text(counts.rename_axis("class").reset_index(name="num_images")))


@predictions_app.command("drift")
def drift_command(
    source: SourceOption, store_url: StoreOption = "store", model: ModelOption = "", as_json: JsonOption = False,
    result: ResultOption = None,
) -> None:
    """Compare the newest predictions with those of the model's validation images."""
    from carclf.batch_prediction.table import prediction_drift

    store = require_store(store_url)
    selected = select_model(store, model)
    if selected.evaluation is None:
        raise ConfigError(f"The store has no evaluation of the model {selected.model.key} to compare with. To create "
                          "one: carclf evaluate --run RUN")
    rows = _read_rows(store, selected.model.key, source, is_summary=True)
    drift = prediction_drift(rows, selected.evaluation, store)
    if as_json:
        print(json.dumps(drift, indent=1))
    elif drift and result:  # a task's log, where a warning is visible
        level = log.info if drift["verdict"] == "ok" else log.warning
        notes = "; ".join(f"{measure['name']} {measure['value']:.3f} ({measure['note']})"
                          for measure in drift["measures"])
        level("predictions: %s: %s", _drift_line(drift), notes)
    elif drift:
        print(_drift_line(drift))
    _write_result({name: value for name, value in drift.items() if name != "measures"}, result)


def _drift_line(drift: dict[str, Any]) -> str:
    return (f"drift {drift['drift']:.3f} ({drift['measure']}), {drift['verdict']}, "
            f"{format_count(drift['num_images'], 'image')}")


def _plan(store: Store, selected: SelectedModel, source: str, shard_size: int) -> "Plan":
    from carclf.batch_prediction.plan import make_plan, open_source

    plan = make_plan(store, selected.model.key, open_source(source), shard_size)
    log.info("predictions: planned model=%s num_listed=%d num_new=%d num_unfinished_shards=%d", selected.model.key,
             plan.num_listed, plan.num_new, len(plan.shards))
    return plan


def _predict(store: Store, selected: SelectedModel, source: str, shards: "list[ShardId]") -> dict[str, int]:
    from carclf.batch_prediction.plan import open_source
    from carclf.batch_prediction.predict import ModelOutputs, predict_shards
    from carclf.batch_prediction.shard_files import BatchFolder

    def load() -> ModelOutputs:
        return ModelOutputs(load_predictor(selected, store), selected.model.class_names)

    opened = open_source(source)
    return predict_shards(BatchFolder(store, selected.model.key, opened.name), shards, opened, load)


def _read_rows(
    store: Store, model: str, source: str, *, is_summary: bool = False, with_version: bool = False
) -> "pd.DataFrame":
    """Return the predictions; a summary lacks the probabilities of each class, and by default the version."""
    from carclf.batch_prediction.plan import open_source
    from carclf.batch_prediction.shard_files import BatchFolder
    from carclf.batch_prediction.table import SUMMARY_COLUMNS, read_predictions

    key = select_model(store, model).model.key
    folder = BatchFolder(store, key, open_source(source).name)
    columns = [*SUMMARY_COLUMNS, *(["version"] if with_version else [])]
    rows = read_predictions(folder, columns if is_summary else None)
    if rows.empty:
        log.warning("predictions: none yet model=%s source=%s", key, folder.source)
    return rows


def _to_json(table: "pd.DataFrame") -> str:
    return json.dumps(json.loads(table.to_json(orient="records")), indent=1)


def _to_text(table: "pd.DataFrame") -> str:
    cells = [[_format_cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(format_table([list(table.columns), *cells]))


def _format_cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def _write_result(content: Any, path: Optional[Path]) -> None:
    if path:
        path.write_text(json.dumps(content))
