"""``carclf source``: what a source contains now, and what a store has read from it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from carclf.cli.options import JsonOption, ReadingRecipeOption, SetOption, StoreOption
from carclf.config import load_settings
from carclf.config.sources import require_source
from carclf.dataset.source_status import SourceStatus, source_status
from carclf.formatting import printable
from carclf.services.storage import require_store

source_app = typer.Typer(no_args_is_help=True, help="Compare a source with what a store has read from it.")


@source_app.callback()
def _group() -> None:
    """Keep ``status`` a subcommand: typer would make the only command of a group the group itself."""


@source_app.command()
def status(
    source: Annotated[
        str, typer.Argument(help="As data.source: a competition's slug, kaggle://owner/dataset, s3://bucket/prefix, or "
                                 "a path. By default the deployment's source.")
    ] = "",
    store_url: StoreOption = "store",
    recipe: ReadingRecipeOption = "gpu",
    set_: SetOption = [],
    as_json: JsonOption = False,
) -> None:
    """Show whether a source has changed since the store's last download. No image is opened or downloaded."""
    config = load_settings(recipe, [*set_, *([f"data.source={source}"] if source else [])])
    result = source_status(require_source(config.data.source), require_store(store_url))
    print(json.dumps(asdict(result)) if as_json else _to_text(result))


def _to_text(result: SourceStatus) -> str:
    images = "unknown" if result.num_images is None else str(result.num_images)
    if result.num_new_images is not None and result.changed:
        images += f", {result.num_new_images} new or changed"
    lines = [
        f"{'source':<14}{result.source}", f"{'changed':<14}{'yes' if result.changed else 'no'}",
        f"{'fingerprint':<14}{result.fingerprint}",
        f"{'last download':<14}{result.last_fingerprint or 'unknown'}"
        f"{result.archive and f', archives/{result.archive}'}",
        f"{'images':<14}{images}",
        *([f"{'version':<14}{result.version}"] if result.version else []),
    ]
    return "\n".join(map(printable, lines))
