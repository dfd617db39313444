"""What a trained model answers just before it is saved: its saved file must answer the same elsewhere."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd

from carclf.pipeline.batches import Examples, Plain, Size, batches

NUM_PROBED = 64
BATCH_SIZE = 16  # no setting: what is compared is computed alike on both sides


def write_probe(model: keras.Model, val: pd.DataFrame, images: Path, size: Size, folder: Path) -> None:
    """Write ``probe.parquet``: id, sha256 and the float32 logits, by class, of some of the validation images.

    Call it in the precision in which the saved model will compute: outside of ``computing_in``.
    """
    chosen = probed(val)
    # called and not predicted: a compiled prediction remembers the precision that it was compiled in
    answers = [keras.ops.convert_to_numpy(model(pixels, training=False))
               for pixels, _ in batches(Plain(Examples.of(chosen, images, size), size), BATCH_SIZE)]
    logits = np.concatenate(answers).astype(np.float32)
    columns = pd.DataFrame(logits, columns=[f"logit{position}" for position in range(logits.shape[1])])
    known = chosen[["id", "sha256"]].reset_index(drop=True)
    pd.concat([known, columns], axis="columns").to_parquet(folder / "probe.parquet", index=False)


def probed(val: pd.DataFrame) -> pd.DataFrame:
    """Up to NUM_PROBED of the rows: of each class the first by their content, then the second, and so on."""
    ordered = val.sort_values(["sha256", "path"])
    turn = ordered.groupby("label").cumcount()
    return ordered.assign(turn=turn).sort_values(["turn", "label"], kind="stable").head(NUM_PROBED).drop(columns="turn")
