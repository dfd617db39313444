"""The seed's own way: the notebook's recipe in Keras as it was written, by ImageDataGenerator.

A frozen backbone for 5 epochs, then everything unfrozen (BatchNormalization in training mode) with Adam at 1e-4 for
8 epochs, ReduceLROnPlateau, the checkpoint of the best validation accuracy. Source: facts of the published notebook.
"""

import tempfile
from pathlib import Path
from typing import Any

import albumentations as a
import keras
import numpy as np
import pandas as pd

from carclf.demo.competition import Competition

SIZE, BATCH, VAL_FRACTION = (224, 224), 32, 0.15


def train_original_notebook(
    data: Path, competition: Competition, weights: str, seed: int, epochs: tuple[int, int]
) -> tuple[dict[str, str], dict[str, float]]:
    """The answer for each held-out picture, and the validation accuracy; epochs frozen and unfrozen."""
    keras.utils.set_random_seed(seed)
    paths = sorted(path for path in data.glob("train/*/*") if path.name not in competition.ids)
    held_out = [path for path in data.glob("train/*/*") if path.name in competition.ids]
    frame = pd.DataFrame({"path": list(map(str, paths)), "label": [path.parent.name for path in paths]})
    val = frame.groupby("label").sample(frac=VAL_FRACTION, random_state=seed)
    train = frame.drop(val.index)
    chain = a.Compose([a.HorizontalFlip(p=0.5), a.Rotate(5, p=0.5), a.ColorJitter(0.2, 0.2, 0.2, 0.0, p=0.8)])
    augmented = _flow(train, seed, lambda pixels: chain(image=pixels.astype(np.uint8))["image"].astype(np.float32))
    # the notebook's validation pictures pass through the augmentation too; here they do not, which is kinder to it
    plain = _flow(val, None, None)
    model = _fit(augmented, plain, weights, len(augmented.class_indices), epochs)
    names = np.array(list(augmented.class_indices))
    labels = [path.parent.name for path in held_out]  # not used; the generator wants one
    test = _flow(pd.DataFrame({"path": list(map(str, held_out)), "label": labels}), None, None)
    answers = names[model.predict(test, verbose=0).argmax(1)]
    accuracy = float(model.evaluate(plain, verbose=0, return_dict=True)["accuracy"])
    return dict(zip([path.name for path in held_out], answers, strict=True)), {"val_accuracy": accuracy}


def _flow(frame: pd.DataFrame, seed: int | None, function: Any) -> Any:
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator(preprocessing_function=function)
    return generator.flow_from_dataframe(
        frame, x_col="path", y_col="label", target_size=SIZE, batch_size=BATCH, shuffle=seed is not None, seed=seed,
    )


def _fit(train: Any, val: Any, weights: str, num_classes: int, epochs: tuple[int, int]) -> keras.Model:
    backbone = keras.applications.EfficientNetV2B0(include_top=False, weights=weights, pooling="avg",
                                                   input_shape=(*SIZE, 3))
    backbone.trainable = False
    x = keras.layers.Dense(256, activation="relu")(backbone.output)
    x = keras.layers.Dropout(0.25)(keras.layers.BatchNormalization()(x))
    model = keras.Model(backbone.input, keras.layers.Dense(num_classes, activation="softmax")(x))
    with tempfile.TemporaryDirectory() as folder:
        for rate, num, trainable in ((1e-3, epochs[0], False), (1e-4, epochs[1], True)):
            backbone.trainable = trainable
            model.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", metrics=["accuracy"])
            best = keras.callbacks.ModelCheckpoint(f"{folder}/best.weights.h5", "val_accuracy", save_best_only=True,
                                                   save_weights_only=True)
            slower = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.25, patience=2, min_lr=1e-7)
            model.fit(train, validation_data=val, epochs=num, verbose=0, callbacks=[best, slower])
        model.load_weights(f"{folder}/best.weights.h5")
    return model
