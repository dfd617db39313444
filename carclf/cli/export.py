"""``carclf export``: write a model in the formats of other runtimes."""

from pathlib import Path
from typing import Annotated

import typer

from carclf.cli.options import ModelOption, ModelRunOption, StoreOption, validate_parent_folder
from carclf.runs.model_selection import select_model
from carclf.services.storage import require_store


def export(
    to: Annotated[
        Path, typer.Option("--to", help="Write to this folder, which is created.", callback=validate_parent_folder)
    ],
    store_url: StoreOption = "store", model: ModelOption = "", run: ModelRunOption = "",
    format_: Annotated[
        str, typer.Option("--format", help="Formats separated by commas: keras, saved_model, onnx, litert.")
    ] = "keras,saved_model,litert",
) -> None:
    """Export a model with a model card. Each format is checked by predicting in its runtime."""
    from carclf.export.bundle import export_model

    store = require_store(store_url)
    formats = [name.strip() for name in format_.split(",")]
    differences = export_model(to, select_model(store, model, run), formats, store)
    for name, difference in differences.items():
        print(f"{name:<12} max. difference of probabilities: {difference:.1e}")
    print(f"{to}: model_card.md, export.json and {len(formats)} formats")
