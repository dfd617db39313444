"""``carclf champion reevaluate``: measure past champions on the same new images."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from carclf.artifacts import StageContext
from carclf.champion import read_state
from carclf.cli.options import JsonOption, ReadingRecipeOption, ResultOption, SetOption, StoreOption
from carclf.cli.tables import format_table
from carclf.config import load_settings
from carclf.errors import NotFoundError
from carclf.metrics import METRICS
from carclf.services.storage import require_store

# A small test set is useful, and unreadable images in it harm no model. An explicit --set takes precedence, and the
# policy may be stricter.
TEST_SET_SETTINGS = {"validation.min_images_per_class": 2, "validation.max_unusable_fraction": 1.0}


def reevaluate(
    source: Annotated[
        str, typer.Argument(help="Labeled images: a folder, archive, s3://bucket/prefix, dataset or competition.")
    ],
    store_url: StoreOption = "store", recipe: ReadingRecipeOption = "gpu", set_: SetOption = [],
    last: Annotated[int, typer.Option(min=0, help="Only the newest N champions; 0 measures all.")] = 0,
    as_json: JsonOption = False, result: ResultOption = None,
) -> None:
    """Measure the champions on labeled images that none of them was trained on."""
    store = require_store(store_url)
    if (state := read_state(store)) is None:
        raise NotFoundError(f"There is no champion in {store.url}. Give another --store.")
    config = load_settings(recipe, [*set_, f"data.source={source}"], TEST_SET_SETTINGS)
    from carclf.reevaluation import prepare_test_set
    from carclf.reevaluation import reevaluate as measure

    context = StageContext(store, config)
    rows = measure(prepare_test_set(context), state, context, last)
    print(*([json.dumps(rows, indent=1)] if as_json else _table(rows)), sep="\n")
    if result:
        result.write_text(json.dumps(rows))


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    metric = METRICS[rows[0]["metric"]]
    cells = [("", "model", "run", "promoted", metric.noun, "95%", "images", "trained on")]
    cells += [("*" if row["champion"] else "", row["model"], row["run"], row["promoted"], f"{row['value']:.4f}",
               f"{row['low']:.4f}-{row['high']:.4f}", str(row["num_images"]), str(row["num_trained_on"]))
              for row in rows]
    return format_table(cells)
