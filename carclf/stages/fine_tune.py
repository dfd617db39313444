"""Train the backbone's upper blocks with a low learning rate."""

from pathlib import Path

from carclf.artifacts import Archive, Figures, Model, Split, build
from carclf.config import Config
from carclf.progress import Meter, log
from carclf.services.storage import Store

VERSION = 1


def fine_tune(
    archive: Archive, split: Split, start: Model, config: Config, store: Store, *, salt: str = ""
) -> tuple[Model, bool]:
    """The head's model with unfrozen upper blocks trained on; the epoch with the best validation accuracy."""

    def make(folder: Path) -> Figures:
        return _fit(folder, archive, split, start, config, store)

    return build(
        Model, make, store=store, version=VERSION,
        inputs={"archive": archive.key, "split": split.key, "model": start.key},
        settings={
            # the number of workers changes no weight
            "fine_tune": config.fine_tune.model_dump(exclude={"num_workers"}),
            "augment": config.augment.model_dump(), "seed": config.seed, "salt": salt,
        },
    )


def _fit(folder: Path, archive: Archive, split: Split, start: Model, config: Config, store: Store) -> Figures:
    import keras
    import pandas as pd

    from carclf.data.augmentation import Augmenter
    from carclf.data.images import unpack
    from carclf.data.input_pipeline import Pictures
    from carclf.training import loop
    from carclf.training.determinism import make_repeatable
    from carclf.training.schedules import warmup_cosine
    from carclf.training.unfreezing import unfreeze

    own = config.fine_tune
    make_repeatable(config.seed)
    rows = pd.read_parquet(split.path(store, "split.parquet")).assign(label=lambda rows: rows["target"])
    model = keras.models.load_model(start.path(store, "model.keras"), compile=False)
    size, images = model.input_shape[1:3], unpack(archive, store)
    train = Pictures(
        rows[rows["subset"] == "train"], images, size, batch_size=own.batch_size, seed=config.seed,
        augmenter=Augmenter(config.augment, *size), num_workers=own.num_workers,
    )
    val = Pictures(rows[rows["subset"] == "val"], images, size, batch_size=own.batch_size,
                   num_workers=own.num_workers)
    num_blocks = unfreeze(model, own.unfrozen_fraction)
    log.info("fine_tune: %d blocks unfrozen, %d images", num_blocks, len(train.paths))
    rate = own.learning_rate
    callbacks = [best := loop.KeepBest(own.patience, float(start.figures["val_accuracy"]))]
    if own.schedule == "cosine":
        rate = warmup_cosine(rate, max(1, own.epochs * len(train)), own.warmup_fraction)
    else:
        callbacks.append(keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1))
    optimizer = keras.optimizers.AdamW(rate, weight_decay=own.weight_decay, global_clipnorm=own.clip_norm)
    trained = loop.compiled(model, optimizer, own.label_smoothing, int(rows["target"].max()) + 1)
    history = loop.fit(trained, train, val, epochs=own.epochs, meter=Meter("fine_tune"), callbacks=callbacks) \
        if own.epochs else pd.DataFrame()
    loop.save(model, history, folder)
    return {"val_accuracy": float(best.best), "best_epoch": best.best_epoch + 1, "num_blocks": num_blocks,
            "num_classes": start.figures["num_classes"]}
