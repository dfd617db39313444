"""``carclf predict``, ``export`` and ``ensemble``: what is done with trained models."""

from pathlib import Path
from typing import Annotated

import typer

from carclf.commands.chosen import choose
from carclf.commands.options import StoreOption
from carclf.services.storage import open_store

models_app = typer.Typer()

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
    from carclf.commands.predicting import predicted

    place = open_store(store)
    for line in predicted(choose(place, model, run), files, place, top=top, as_json=json_):
        print(line, flush=True)
