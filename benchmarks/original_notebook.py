"""The recipe of the original notebook, in Keras as it was written, with ImageDataGenerator.

It trains a head on the frozen backbone for 5 epochs, then everything (BatchNormalization in training mode) with Adam at
1e-4 for 8 epochs and ReduceLROnPlateau, and keeps the checkpoint with the best validation accuracy. The numbers are
those of the published notebook.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as a
import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.demo.competition import Competition

SIZE = (224, 224)
BATCH_SIZE = 32
VAL_FRACTION = 0.15
Preprocess = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class NotebookRecipe:
    """The weights file, the seed, and the number of epochs with the backbone frozen and trainable."""

    weights: str
    seed: int
    frozen_epochs: int
    trainable_epochs: int


def train_original_notebook(
    data: Path, competition: Competition, recipe: NotebookRecipe
) -> tuple[dict[str, str], dict[str, float]]:
    """Return the predicted class of each held-out image by name, and the validation accuracy."""
    keras.utils.set_random_seed(recipe.seed)
    paths = sorted(path for path in data.glob("train/*/*") if path.name not in competition.ids)
    held_out = [path for path in data.glob("train/*/*") if path.name in competition.ids]
    frame = _frame(paths)
    val = frame.groupby("label").sample(frac=VAL_FRACTION, random_state=recipe.seed)
    chain = a.Compose([a.HorizontalFlip(p=0.5), a.Rotate(5, p=0.5), a.ColorJitter(0.2, 0.2, 0.2, 0.0, p=0.8)])
    augmented = _flow(
        frame.drop(val.index), recipe.seed,
        lambda pixels: chain(image=pixels.astype(np.uint8))["image"].astype(np.float32),
    )
    # The notebook also augments its validation images. Without augmentation its accuracy is higher.
    plain = _flow(val, None, None)
    model = _fit(augmented, plain, recipe)
    class_names = np.array(list(augmented.class_indices))
    test = _flow(_frame(held_out), None, None)  # the generator requires labels, but predict does not use them
    predicted = class_names[model.predict(test, verbose=0).argmax(1)]
    accuracy = float(model.evaluate(plain, verbose=0, return_dict=True)["accuracy"])
    return dict(zip([path.name for path in held_out], predicted, strict=True)), {"val_accuracy": accuracy}


def _frame(paths: list[Path]) -> pd.DataFrame:
    return pd.DataFrame({"path": list(map(str, paths)), "label": [path.parent.name for path in paths]})


def _flow(frame: pd.DataFrame, seed: int | None, preprocess: Preprocess | None) -> Any:
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator(preprocessing_function=preprocess)
    return generator.flow_from_dataframe(
        frame, x_col="path", y_col="label", target_size=SIZE, batch_size=BATCH_SIZE, shuffle=seed is not None,
        seed=seed,
    )


def _fit(train: Any, val: Any, recipe: NotebookRecipe) -> keras.Model:
    backbone = keras.applications.EfficientNetV2B0(
        include_top=False, weights=recipe.weights, pooling="avg", input_shape=(*SIZE, 3)
    )
    backbone.trainable = False
    x = keras.layers.Dense(256, activation="relu")(backbone.output)
    x = keras.layers.Dropout(0.25)(keras.layers.BatchNormalization()(x))
    num_classes = len(train.class_indices)
    model = keras.Model(backbone.input, keras.layers.Dense(num_classes, activation="softmax")(x))
    phases = ((1e-3, recipe.frozen_epochs, False), (1e-4, recipe.trainable_epochs, True))
    with tempfile.TemporaryDirectory() as folder:
        for learning_rate, epochs, trainable in phases:
            backbone.trainable = trainable
            model.compile(keras.optimizers.Adam(learning_rate), "categorical_crossentropy", metrics=["accuracy"])
            checkpoint = keras.callbacks.ModelCheckpoint(
                f"{folder}/best.weights.h5", "val_accuracy", save_best_only=True, save_weights_only=True
            )
            plateau = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.25, patience=2, min_lr=1e-7)
            model.fit(train, validation_data=val, epochs=epochs, verbose=0, callbacks=[checkpoint, plateau])
        model.load_weights(f"{folder}/best.weights.h5")
    return model
