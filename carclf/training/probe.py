"""What a trained model answers just before it is saved: its saved file must answer the same elsewhere."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd

from carclf.pipeline.batches import Examples, LetterboxedSource, Size, batches

NUM_REFERENCE_IMAGES = 64
BATCH_SIZE = 16  # no setting: what is compared is computed alike on both sides


def write_reference_logits(model: keras.Model, val: pd.DataFrame, images: Path, size: Size, folder: Path) -> None:
    """Write ``reference_logits.parquet``: id, sha256 and the float32 logits, by class, of some of the validation images.

    Call it in the precision in which the saved model will compute: outside of ``computing_in``.
    """
    chosen = select_reference_images(val)
    # called and not predicted: a compiled prediction remembers the precision that it was compiled in
    answers = [keras.ops.convert_to_numpy(model(pixels, training=False))
               for pixels, _ in batches(LetterboxedSource(Examples.from_index(chosen, images, size), size), BATCH_SIZE)]
    logits = np.concatenate(answers).astype(np.float32)
    columns = pd.DataFrame(logits, columns=[f"logit{position}" for position in range(logits.shape[1])])
    known = chosen[["id", "sha256"]].reset_index(drop=True)
    pd.concat([known, columns], axis="columns").to_parquet(folder / "reference_logits.parquet", index=False)


def select_reference_images(val: pd.DataFrame) -> pd.DataFrame:
    """Up to NUM_PROBED of the rows: of each class the first by their content, then the second, and so on."""
    ordered = val.sort_values(["sha256", "path"])
    turn = ordered.groupby("label").cumcount()
    return ordered.assign(turn=turn).sort_values(["turn", "label"], kind="stable").head(NUM_REFERENCE_IMAGES).drop(columns="turn")
