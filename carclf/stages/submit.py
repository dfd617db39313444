"""Predict the test pictures and send the submission, once."""

import csv
import io
from pathlib import Path

from carclf.artifacts import Archive, Dataset, Figures, Model, Split, Submission, build, file_sha256
from carclf.config import Config
from carclf.errors import DataError
from carclf.services.kaggle import Kaggle
from carclf.services.storage import Store

VERSION = 2


def submit(
    archive: Archive, dataset: Dataset, split: Split, model: Model, config: Config, store: Store, *, salt: str = ""
) -> tuple[Submission, bool]:
    """``submission.csv`` in the sample's order and the reference under which Kaggle counted it."""

    def make(folder: Path) -> Figures:
        path = folder / "submission.csv"
        _predict(path, archive, dataset, split, model, config, store)
        check_submission(path.read_text(), dataset.path(store, "sample-submission.csv").read_text(),
                         str(split.figures["class_names"]).split())
        mark = file_sha256(path)[:16]
        sent = Kaggle(config.competition).submit(
            path, description=f"carclf {mark} model {model.key}", fingerprint=mark
        )
        return {"ref": sent.ref, "num_rows": path.read_text().count("\n") - 1}

    return build(
        Submission, make, store=store, version=VERSION,
        inputs={"archive": archive.key, "dataset": dataset.key, "model": model.key},
        settings=config.evaluate.model_dump(exclude={"batch_size"}) | {"competition": config.competition, "salt": salt},
    )


def _predict(
    path: Path, archive: Archive, dataset: Dataset, split: Split, model: Model, config: Config, store: Store
) -> None:
    import keras
    import numpy as np
    import pandas as pd

    from carclf.data.images import unpack
    from carclf.data.input_pipeline import Examples, Plain
    from carclf.evaluation.prediction import predict

    sample = pd.read_csv(dataset.path(store, "sample-submission.csv"), dtype={"Id": str})
    index = pd.read_parquet(dataset.path(store, "index.parquet"))
    test = index[index["label"] < 0].set_index("id").loc[sample["Id"]].reset_index()
    network = keras.models.load_model(model.path(store, "model.keras"), compile=False)
    size = (int(model.figures["image_height"]), int(model.figures["image_width"]))
    pictures = Plain(Examples.of(test, unpack(archive, store), size), size)
    probabilities = predict(network, pictures, config.evaluate)
    class_names = np.array(str(split.figures["class_names"]).split())
    sample.assign(Category=class_names[probabilities.argmax(1)]).to_csv(path, index=False)


def check_submission(text: str, sample: str, class_names: list[str]) -> None:
    """Raise DataError unless the file has the sample's header, its ids in its order, and known classes only."""
    rows, wanted = list(csv.reader(io.StringIO(text))), list(csv.reader(io.StringIO(sample)))
    if [row[:1] for row in rows] != [row[:1] for row in wanted] or rows[0] != wanted[0]:
        raise DataError(f"submission.csv has {len(rows) - 1} rows that are not the sample's {len(wanted) - 1} ids in "
                        "their order; it was not sent. Run again with force.")
    if strangers := {row[1] for row in rows[1:]} - set(class_names):
        raise DataError(f"submission.csv names unknown classes {sorted(strangers)}; it was not sent.")
