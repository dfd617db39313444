"""Whether a saved model answers as it did before it was saved."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from carclf.errors import QualityError
from carclf.inference.runtimes import predict_logits
from carclf.pipeline.batches import Examples, LetterboxedSource, Size, batches
from carclf.progress import log

BATCH_SIZE = 16


def reload_difference(path: Path, probe: pd.DataFrame, rows: pd.DataFrame, images: Path, size: Size) -> float | None:
    """The largest difference of a probability between ``reference_logits.parquet`` and the file, loaded in a fresh process.

    The pictures are found among the ``rows`` by their content: None where those hold none of them. 1 where the file
    answers no number or cannot be loaded.
    """
    there = rows.drop_duplicates("sha256")
    known = there.set_index("sha256", drop=False).loc[probe["sha256"][probe["sha256"].isin(there["sha256"])]]
    if known.empty:
        return None
    source = LetterboxedSource(Examples.from_index(known, images, size), size)
    try:
        logits = predict_logits("keras", path, np.concatenate([pixels for pixels, _ in batches(source, BATCH_SIZE)]))
    except QualityError as error:
        log.warning("evaluate: %s", error)
        return 1.0
    told = probe.drop_duplicates("sha256").set_index("sha256").loc[known["sha256"]].filter(like="logit").to_numpy(float)
    difference = np.abs(softmax(logits.astype(float), 1) - softmax(told, 1)).max()
    return float(np.nan_to_num(difference, nan=1.0))
