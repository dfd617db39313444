"""Measure the candidate on the validation images."""

import json
from pathlib import Path

from carclf.artifacts import Archive, Evaluation, Figures, Model, Split, build
from carclf.config import Config
from carclf.services.storage import Store

VERSION = 2


def evaluate(
    archive: Archive, split: Split, model: Model, config: Config, store: Store, *, salt: str = ""
) -> tuple[Evaluation, bool]:
    """Accuracy with its interval, recall of each class, confusion, and every prediction."""

    def make(folder: Path) -> Figures:
        import keras
        import numpy as np
        import pandas as pd

        from carclf.data.images import unpack
        from carclf.data.input_pipeline import Examples, Plain
        from carclf.evaluation.metrics import summarize
        from carclf.evaluation.prediction import predict

        rows = pd.read_parquet(split.path(store, "split.parquet"))
        val = rows[rows["subset"] == "val"]
        network = keras.models.load_model(model.path(store, "model.keras"), compile=False)
        size = (int(model.figures["image_height"]), int(model.figures["image_width"]))
        pictures = Plain(Examples.of(val, unpack(archive, store), size), size)
        probabilities = predict(network, pictures, config.evaluate)
        class_names = np.array(sorted(rows["label"].unique()))
        found = summarize(val["target"].to_numpy(), probabilities) | {"class_names": class_names.tolist()}
        predictions = pd.DataFrame(probabilities, columns=[f"p{name}" for name in class_names])
        predictions.insert(0, "predicted", class_names[probabilities.argmax(1)])
        predictions.insert(0, "label", val["label"].to_numpy())
        predictions.insert(0, "id", val["id"].to_numpy())
        predictions.to_parquet(folder / "predictions.parquet", index=False)
        (folder / "evaluation.json").write_text(json.dumps(found, indent=1))
        weakest = int(np.argmin(found["recall"]))
        return {
            "val_accuracy": found["accuracy"], "low": found["interval"][0], "high": found["interval"][1],
            "num_images": found["num_images"], "weakest_class": int(class_names[weakest]),
            "weakest_recall": found["recall"][weakest],
        }

    return build(Evaluation, make, store=store, version=VERSION,
                 inputs={"archive": archive.key, "split": split.key, "model": model.key},
                 settings=config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": salt})
