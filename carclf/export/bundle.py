"""Export a model to a folder: its files in several formats, ``export.json`` for programs, and the model card."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Split, atomic_folder
from carclf.dataset.archives import extract_images
from carclf.errors import ConfigError
from carclf.export.model_card import write_model_card
from carclf.progress import log
from carclf.runs.model_selection import SelectedModel
from carclf.services.storage import Store

NUM_IMAGES = 30  # validation images on which the files are compared with the model


def export_model(folder: Path, selected: SelectedModel, formats: Sequence[str], store: Store) -> dict[str, float]:
    """Write and check every format; return the largest difference of a probability by format.

    Either all files appear in the folder or none. Raise ConfigError if the folder is not empty or a format cannot be
    written, and QualityError if a file predicts differently from the model.
    """
    from carclf.export.formats import require_formats

    require_formats(formats)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    with atomic_folder(folder) as work:
        if work is None:
            raise ConfigError(f"The folder {folder} exists and is not empty. Use another --to, or remove it.")
        work.chmod(0o755)  # a temporary folder is only readable by its owner
        split = Split.require(store, selected.model.inputs.get("split", "none"))
        differences = _write_formats(work, selected, split, formats, store)
        facts = _export_facts(selected, differences)
        (work / "export.json").write_text(json.dumps(facts, indent=1))
        write_model_card(work / "model_card.md", selected, split, facts, store)
    return differences


def _write_formats(
    work: Path, selected: SelectedModel, split: Split, formats: Sequence[str], store: Store
) -> dict[str, float]:
    import numpy as np

    from carclf.export.formats import check_exported, export_network

    source = selected.model.path(store, "model.keras")
    network = selected.model.network(store)
    images = _validation_images(selected, split, store)
    logits = np.asarray(network.predict_on_batch(images), float)
    differences = {}
    for name in formats:
        log.info("export: writing and checking format=%s", name)
        path = export_network(name, network, selected.model.image_size, source, work)
        differences[name] = check_exported(name, path, images, logits)
    return differences


def _validation_images(selected: SelectedModel, split: Split, store: Store) -> Any:
    """Return some validation images of the model's split, in the network's input size."""
    import numpy as np

    from carclf.pipeline.batches import Examples, LetterboxedSource

    archive = Archive.require(store, selected.model.inputs.get("archive", "none"))
    rows = split.rows(store)
    val = rows[rows["subset"] == "val"]
    sample = val.iloc[np.unique(np.linspace(0, len(val) - 1, NUM_IMAGES).astype(int))]
    size = selected.model.image_size
    source = LetterboxedSource(Examples.from_index(sample, extract_images(archive, store), size), size)
    return np.stack([source[position][0] for position in range(len(source))])


def _export_facts(selected: SelectedModel, differences: dict[str, float]) -> dict[str, Any]:
    """Return the content of ``export.json``: what a program needs to use the files."""
    from carclf.export.formats import FORMATS, TOLERANCE

    height, width = selected.model.image_size
    return {
        "model": selected.model.key, "class_names": selected.model.class_names,
        "input": {"height": height, "width": width, "channels": "RGB", "range": [0, 255], "dtype": "float32"},
        "output": "logits", "temperature": selected.temperature,
        "files": {name: FORMATS[name].file for name in differences},
        "differences": differences,  # the largest of a probability by format, measured on num_images images
        "tolerance": TOLERANCE, "num_images": NUM_IMAGES,
    }
