"""All predictions of a model for a source as one table, and their drift from the validation images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pandas as pd

from carclf.artifacts import Evaluation
from carclf.audit.drift import Sample, measure_drift
from carclf.batch_prediction.plan import NUM_THREADS
from carclf.batch_prediction.shard_files import BatchFolder
from carclf.config import Audit
from carclf.inference.calibration import apply_temperature
from carclf.services.storage import Store

SUMMARY_COLUMNS = ("id", "class", "probability", "problem", "plan")
EMPTY_COLUMNS = ("id", "version", "class", "probability", "problem", "plan", "model")


def read_predictions(folder: BatchFolder, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return one row per image, sorted by id: the prediction of its newest planned version.

    The columns are documented in ``docs/batch-prediction.md``; ``columns`` selects some, id and plan among them. The
    table is empty, without columns of probabilities, if nothing was predicted. Rows of images that were removed from
    the source stay.
    """
    _, finished = folder.list_objects()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        tables = [table for table in pool.map(lambda shard: folder.read_shard(shard, columns), finished) if len(table)]
    if not tables:
        return pd.DataFrame(columns=list(columns or EMPTY_COLUMNS))
    rows = pd.concat(tables, ignore_index=True).sort_values(["id", "plan"])
    return rows.drop_duplicates("id", keep="last").reset_index(drop=True)


def most_uncertain(rows: pd.DataFrame, num: int) -> pd.DataFrame:
    """Return the images with the lowest probability of their predicted class, the lowest first."""
    return rows[rows["problem"] == ""].sort_values(["probability", "id"]).head(num).reset_index(drop=True)


def prediction_drift(rows: pd.DataFrame, validation: Evaluation, store: Store) -> dict[str, Any]:
    """Measure the drift of the newest plan's predictions from those of the model's validation images.

    Compared are the predicted classes (total variation distance) and the probabilities of the predicted class
    (Kolmogorov-Smirnov distance). Return drift (the worse of the two, from 0 to 1), measure, verdict, num_images and
    measures; {} if no image was predicted.
    """
    newest = rows[(rows["problem"] == "") & (rows["plan"] == rows["plan"].max())]
    if newest.empty:
        return {}
    sample = Sample(newest[["class", "probability"]].set_axis(["label", "confidence"], axis="columns"), None)
    reference = Sample(_validation_rows(validation, store), None)
    drift = measure_drift(sample, reference, Audit(), seed=0, needs_all_classes=False)
    return {"drift": drift.value, "measure": drift.worst, "verdict": drift.verdict, "num_images": len(newest),
            "measures": [asdict(measure) for measure in drift.measures]}


def _validation_rows(validation: Evaluation, store: Store) -> pd.DataFrame:
    predictions = validation.table(store, "predictions.parquet")
    probabilities = predictions.filter(regex="^p_").to_numpy(float)
    confidence = apply_temperature(probabilities, predictions["temperature"].to_numpy(float)).max(1)
    return pd.DataFrame({"label": predictions["predicted"], "confidence": confidence})
