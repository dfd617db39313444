"""Compare the predictions of a saved model with those it made before it was saved."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from carclf.artifacts import Model
from carclf.errors import QualityError
from carclf.inference.runtimes import predict_logits
from carclf.pipeline.batches import Examples, LetterboxedSource, batches
from carclf.progress import log
from carclf.services.storage import Store

BATCH_SIZE = 16


def reload_difference(model: Model, rows: pd.DataFrame, images: Path, store: Store) -> float | None:
    """Return the largest difference of a probability between the saved model and ``reference_logits.parquet``.

    The model is loaded in a new process. The result is 1 if it cannot be loaded or predicts NaN, and None if none of
    the reference images, identified by their sha256, is among the rows of a split. ``images`` is the folder that the
    paths of the rows are relative to.
    """
    reference = model.table(store, "reference_logits.parquet").drop_duplicates("sha256")
    reference = reference.set_index("sha256")
    available = rows.drop_duplicates("sha256").set_index("sha256", drop=False)
    keys = reference.index[reference.index.isin(available.index)]
    if keys.empty:
        return None
    source = LetterboxedSource(Examples.from_index(available.loc[keys], images, model.image_size), model.image_size)
    pixels = np.concatenate([batch for batch, _ in batches(source, BATCH_SIZE)])
    try:
        logits = predict_logits("keras", model.path(store, "model.keras"), pixels)
    except QualityError as error:
        log.warning("evaluate: cannot reload the model error=%s", error)
        return 1.0
    expected = reference.loc[keys].filter(like="logit").to_numpy(float)
    difference = np.abs(softmax(logits.astype(float), 1) - softmax(expected, 1)).max()
    return float(np.nan_to_num(difference, nan=1.0))
