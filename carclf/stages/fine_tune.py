"""Train the backbone's upper blocks with a low learning rate."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Metrics, Model, Provenance, Split, StageContext, build
from carclf.config import AUTO, Config
from carclf.progress import log
from carclf.services.storage import Store
from carclf.training.checkpoints import Checkpoints
from carclf.training.warm_start import fine_tune_settings

VERSION = 5
STAND_IN_BATCH, SMALLEST_BATCH, LARGEST_BATCH, NUM_RATES = 32, 8, 1024, 100  # while values are tried
FEWEST_STEPS = 16  # of an epoch with a found batch size: fewer would hardly train


def fine_tune(
    archive: Archive, split: Split, start: Model, context: StageContext, *, pause_epoch: int = 0
) -> tuple[Model, bool]:
    """The head's model with unfrozen upper blocks trained on; the epoch with the best validation accuracy.

    A killed training goes on from its last checkpoint when the stage is run again. NotYet after ``pause_epoch``.
    """
    config, store, salt = context.config, context.store, context.salt
    inputs = {"archive": archive.key, "split": split.key, "model": start.key}
    settings = fine_tune_settings(config, salt)
    key = Provenance(VERSION, inputs, settings).key(Model)

    def make(folder: Path) -> Metrics:
        return _fit(folder, archive, split, start, config, store, key, pause_epoch)

    model, reused = build(Model, make, Provenance(VERSION, inputs, settings), store)
    Checkpoints(store, key).clear()
    return model, reused


def find_setting(
    archive: Archive, split: Split, start: Model, config: Config, store: Store, name: str
) -> tuple[Any, float]:
    """Try values of ``learning_rate`` or ``batch_size`` as fine-tuning would: what was tried, and the choice.

    Every batch size that fits into memory is tried, also those that are too large for so few pictures.
    """
    with _prepared(archive, split, start, config, store) as (model, rows):
        return _try(name, model, rows, archive, start, config, store, every=True)


def _fit(
    folder: Path, archive: Archive, split: Split, start: Model, config: Config, store: Store, key: str,
    pause_epoch: int,
) -> Metrics:
    import pandas as pd

    from carclf.dataset.archives import extract_images
    from carclf.training.compile import save_model
    from carclf.training.probe import write_reference_logits

    metrics: Metrics = {"val_accuracy": start.metrics["val_accuracy"], "best_epoch": 0}
    with _prepared(archive, split, start, config, store) as (model, rows):
        history = pd.DataFrame()
        if config.fine_tune.epochs:
            config = _without_auto(folder, model, rows, archive, start, config, store, key)
            history, metrics = _train(model, rows, archive, start, config, store, key, pause_epoch)
    size = start.image_size
    write_reference_logits(model, rows[rows["subset"] == "val"], extract_images(archive, store), size, folder)
    save_model(model, history, folder)
    return metrics | {"class_names": split.metrics["class_names"]} | {
        name: start.metrics[name] for name in ("num_classes", "image_height", "image_width")}


def _train(
    model: Any, rows: Any, archive: Archive, start: Model, config: Config, store: Store, key: str, pause_epoch: int
) -> tuple[Any, Metrics]:
    """Train the model; the history, and what it came to."""
    from carclf.training.schedules import compile_for_fine_tuning
    from carclf.training.trainer import Trainer
    from carclf.training.validation import validate

    own, accuracy = config.fine_tune, start.number("val_accuracy")
    source, val = _sources(rows, archive, start, config, store)
    trained, num_blocks = compile_for_fine_tuning(own, model, source)
    if source.batch_size < own.batch_size:
        log.warning("fine_tune: batches of %d, since there are no more training images", source.batch_size)
    log.info("fine_tune: %d blocks unfrozen, %d images", num_blocks, len(source.examples))
    trainer = Trainer(trained, source, _mix(start, config), own,
                      lambda network: validate(network, val, source.batch_size), Checkpoints(store, key),
                      pause_epoch=pause_epoch)
    history = trainer.run(accuracy)
    best = trainer.progress
    return history, {"val_accuracy": best.best_accuracy, "best_epoch": best.best_epoch, "num_blocks": num_blocks,
                     "num_restarts": best.restarts, "learning_rate": own.learning_rate,
                     "batch_size": source.batch_size}


@contextmanager
def _prepared(archive: Archive, split: Split, start: Model, config: Config, store: Store) -> Iterator[tuple[Any, Any]]:
    """The head's model on this machine's devices and in the wanted precision, and the split's rows."""
    import keras
    import pandas as pd

    from carclf.training.compile import make_deterministic
    from carclf.training.distribution import data_parallel
    from carclf.training.precision import compute_precision

    make_deterministic(config.seed)
    rows = pd.read_parquet(split.path(store, "split.parquet")).assign(label=lambda rows: rows["class_index"])
    batch_size = min(config.fine_tune.batch_size, int((rows["subset"] == "train").sum())) or LARGEST_BATCH
    with data_parallel(batch_size):
        model = keras.models.load_model(start.path(store, "model.keras"), compile=False)
        with compute_precision(config.model.precision, model) as precision:
            log.info("fine_tune: computing in %s", precision)
            yield model, rows


def _without_auto(
    folder: Path, model: Any, rows: Any, archive: Archive, start: Model, config: Config, store: Store, key: str
) -> Config:
    """The configuration with found values for "auto", batch size first; found once, also where training is killed."""
    import pandas as pd

    from carclf.training import tuning as finding

    for name in ("batch_size", "learning_rate"):
        if getattr(config.fine_tune, name) != AUTO:
            continue
        memory = f"checkpoints/{key}/{name}-tried.json"
        if found := store.read(memory):
            kept = json.loads(found.data)
            tried, chosen = pd.DataFrame(kept["tried"]), kept["chosen"]
        else:
            tried, chosen = _try(name, model, rows, archive, start, config, store)
            store.write(memory, json.dumps({"chosen": chosen, "tried": tried.to_dict("list")}).encode())
        finding.plot_trials(tried, chosen, folder / f"{name}.png")
        log.info("fine_tune: %s %.3g was found", name, chosen)
        config = config.model_copy(update={"fine_tune": config.fine_tune.model_copy(update={name: chosen})})
    return config


def _try(
    name: str, model: Any, rows: Any, archive: Archive, start: Model, config: Config, store: Store, *,
    every: bool = False,
) -> tuple[Any, Any]:
    import keras

    from carclf.training import tuning as finding
    from carclf.training.compile import make_deterministic
    from carclf.training.schedules import compile_for_fine_tuning

    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    own = config.fine_tune
    stand_ins = {
        "batch_size": own.batch_size or STAND_IN_BATCH, "learning_rate": own.learning_rate or 1e-3,
        "epochs": NUM_RATES, "num_phases": 1,  # enough steps, of pictures in their full size
    }
    config = config.model_copy(update={"fine_tune": own.model_copy(update=stand_ins)})
    source, _ = _sources(rows, archive, start, config, store)
    if name == "batch_size":
        trained, _ = compile_for_fine_tuning(config.fine_tune, model, source)
        useful = min(LARGEST_BATCH, max(SMALLEST_BATCH, len(source.examples) // FEWEST_STEPS))
        tried = finding.try_batch_sizes(trained, source.sizes[-1], SMALLEST_BATCH, LARGEST_BATCH if every else useful)
        chosen: float = finding.best_batch_size(tried, useful)
    else:
        from carclf.pipeline.batches import batches

        stream = batches(source, source.batch_size, mix=_mix(start, config))
        tried = finding.range_test(lambda rate: compile_for_fine_tuning(config.fine_tune, model, source, rate)[0], stream, NUM_RATES)
        chosen = finding.best_learning_rate(tried)
    for variable, array in zip(model.variables, before, strict=True):
        variable.assign(array)
    make_deterministic(config.seed)  # training is the same whether the value was found now or before a kill
    return tried, chosen


def _sources(rows: Any, archive: Archive, start: Model, config: Config, store: Store) -> tuple[Any, Any]:
    """The training pictures, augmented and shuffled, and the plain validation pictures."""
    from carclf.dataset.archives import extract_images
    from carclf.pipeline.augmentation import Augmenter
    from carclf.pipeline.batches import Examples, LetterboxedSource, TrainingSource
    from carclf.training.schedules import epoch_sizes

    own, images = config.fine_tune, extract_images(archive, store)
    size = start.image_size
    # what the smallest crop shows must have as many pixels as the network sees
    largest = tuple(round(side * config.augment.crop_scale**-0.5) for side in size)
    train = Examples.from_index(rows[rows["subset"] == "train"], images, (largest[0], largest[1]))
    train = train.with_decode_cache(archive.content_hash, max_bytes=own.cache_gb * 1e9)
    sizes = epoch_sizes(size, own.initial_size_fraction, own.num_phases, own.epochs)
    source = TrainingSource(train, Augmenter(config.augment), sizes, own.batch_size, own.epochs, config.seed)
    return source, LetterboxedSource(Examples.from_index(rows[rows["subset"] == "val"], images, size), size)


def _mix(start: Model, config: Config) -> Any:
    from carclf.pipeline.mixing import BatchMixer

    return BatchMixer(int(start.number("num_classes")), config.seed, config.fine_tune.mixup, config.fine_tune.cutmix)
