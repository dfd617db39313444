"""The head: from pooled features to logits."""

import keras

from carclf import config


def build_head(num_features: int, num_classes: int, model: config.Model) -> keras.Model:
    """(batch, features) to logits (batch, classes), float32 also under mixed precision."""
    inputs = keras.Input((num_features,), dtype="float32")
    x = keras.layers.BatchNormalization()(inputs) if model.batch_norm else inputs
    if model.hidden_units:
        x = keras.layers.Dense(model.hidden_units, activation="relu")(x)
        x = keras.layers.BatchNormalization()(x) if model.batch_norm else x
    x = keras.layers.Dropout(model.dropout)(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, dtype="float32", name="logits")(x), name="head")


def join(backbone: keras.Model, head: keras.Model) -> keras.Model:
    """One model from pictures to logits."""
    return keras.Model(backbone.input, head(backbone.output), name="classifier")
