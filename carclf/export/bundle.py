"""``carclf export``: a folder with a model in several formats, what they need to know, and the model card."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Split, atomic_folder
from carclf.errors import ConfigError, DataError
from carclf.progress import log
from carclf.runs.model_selection import SelectedModel
from carclf.services.storage import Store

NUM_PICTURES = 30


def export_model(folder: Path, chosen: SelectedModel, formats: Sequence[str], store: Store) -> dict[str, float]:
    """Write and check every format; the largest difference of a probability of each. All of it appears, or nothing."""
    from carclf.export import formats as exporting

    exporting.require_formats(formats)
    with _new_folder(folder) as work:
        differences = _write_all(work, chosen, formats, store)
        facts = _facts(chosen, store, differences)
        (work / "export.json").write_text(json.dumps(facts, indent=1))
        _write_card(work / "model_card.md", chosen, facts, store)
    return differences


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    with atomic_folder(folder) as work:
        if work is None:
            raise ConfigError(f"{folder} is there and is not empty. Give another --to, or remove it.")
        work.chmod(0o755)  # as for one that anybody makes, where a temporary one is its maker's alone
        yield work


def _write_all(work: Path, chosen: SelectedModel, formats: Sequence[str], store: Store) -> dict[str, float]:
    import keras
    import numpy as np

    from carclf.export import formats as exporting

    source = chosen.model.path(store, "model.keras")
    network = keras.models.load_model(source, compile=False)
    pictures = _validation_pictures(chosen, store)
    logits = np.asarray(network.predict_on_batch(pictures), float)
    differences = {}
    for name in formats:
        log.info("export: writing and checking %s", name)
        path = exporting.export_network(name, network, chosen.model.image_size, source, work)
        differences[name] = exporting.check_exported(name, path, pictures, logits)
    return differences


def _validation_pictures(chosen: SelectedModel, store: Store) -> Any:
    """Some validation pictures of the model's split, as the network gets them."""
    import numpy as np
    import pandas as pd

    from carclf.dataset.archives import extract_images
    from carclf.pipeline.batches import Examples, LetterboxedSource

    split, archive = _split(chosen, store), Archive.find(store, chosen.model.inputs.get("archive", "none"))
    if archive is None:
        raise DataError(f"The archive that the model was trained on is gone from {store.url}: there are no pictures "
                        "to check the files with. Restore it.")
    rows = pd.read_parquet(split.path(store, "split.parquet"))
    val = rows[rows["subset"] == "val"]
    some = val.iloc[np.unique(np.linspace(0, len(val) - 1, NUM_PICTURES).astype(int))]
    source = LetterboxedSource(Examples.from_index(some, extract_images(archive, store), chosen.model.image_size), chosen.model.image_size)
    return np.stack([source[position][0] for position in range(len(source))])


def _split(chosen: SelectedModel, store: Store) -> Split:
    if (split := Split.find(store, chosen.model.inputs.get("split", "none"))) is None:
        raise DataError(f"The split that the model was trained on is gone from {store.url}. Restore "
                        f"splits/{chosen.model.inputs.get('split', '')}, or export the model of a whole run.")
    return split


def _facts(chosen: SelectedModel, store: Store, differences: dict[str, float]) -> dict[str, Any]:
    """``export.json``: what a program that uses the files must know."""
    from carclf.export import formats as exporting

    height, width = chosen.model.image_size
    return {
        "model": chosen.model.key, "class_names": chosen.model.class_names,
        "input": {"height": height, "width": width, "channels": "RGB", "range": [0, 255], "dtype": "float32"},
        "output": "logits", "temperature": chosen.temperature,
        "files": {name: exporting.FORMATS[name].file for name in differences},
        "differences": differences, "tolerance": exporting.TOLERANCE, "num_images": NUM_PICTURES,
    }


def _write_card(path: Path, chosen: SelectedModel, facts: dict[str, Any], store: Store) -> None:
    from carclf.export.model_card import ModelCardSource, write_model_card

    write_model_card(path, ModelCardSource(chosen.model, _split(chosen, store), chosen.evaluation, chosen.decision, chosen.record or {},
                           chosen.scores), facts, store)
