"""Predict the images of shards and write each shard's predictions to the store at once."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.batch_prediction.shard_files import BatchFolder, ShardId
from carclf.dataset.listing import ListedSource, list_source
from carclf.dataset.walk import Entry
from carclf.errors import DataError, ObjectAccessError, ServiceError, SourceChangedError
from carclf.images.decode import MAX_BYTES_PER_PIXEL, ImageDecodeError, Pixels
from carclf.progress import Meter, log
from carclf.stats import probability_columns
from carclf.temporary import temporary_folder

if TYPE_CHECKING:
    from carclf.inference.files import ImagePredictor


@dataclass(frozen=True)
class Failure:
    """The reason why an image has no prediction. A later plan repeats the image unless the reason is permanent."""

    reason: str
    is_permanent: bool


Item = tuple[int, Entry]  # the position in the shard, and the file
Result = npt.NDArray[Any] | Failure


@dataclass(frozen=True)
class ModelOutputs:
    """The predictor of a model and the names of its classes, in the order of its outputs."""

    predictor: "ImagePredictor"
    class_names: list[str]


def predict_shards(
    folder: BatchFolder, shards: Sequence[ShardId], source: ListedSource, load: Callable[[], ModelOutputs]
) -> dict[str, int]:
    """Predict the shards that are not finished; return counts of shards and images.

    ``load`` is called once, if there is anything to predict. Raise DataError if a plan does not have one of the shards,
    ServiceError if this machine can read no image of a shard.
    """
    counts = Counter({"num_shards": 0, "num_finished_before": 0, "num_images": 0, "num_unreadable": 0, "num_left": 0})
    outputs: ModelOutputs | None = None
    plans = {number: folder.read_plan(number, shards) for number in {shard.plan for shard in shards}}
    with Meter("predictions") as meter:
        for number, shard in enumerate(shards, 1):
            if folder.is_finished(shard):
                counts["num_finished_before"] += 1
                continue
            outputs = outputs or load()
            counts.update(_predict_shard(folder, shard, plans[shard.plan], source, outputs))
            meter(number, len(shards), f"shard {shard}")
    return dict(counts)


def _predict_shard(
    folder: BatchFolder, shard: ShardId, plan: pd.DataFrame, source: ListedSource, outputs: ModelOutputs
) -> dict[str, int]:
    images = plan.loc[plan["shard"] == shard.number, list(Entry._fields)]
    if images.empty:
        raise DataError(f"The plan {shard.plan} in {folder.store.url}/{folder.path} has no shard {shard.number}. Make "
                        "a plan with carclf predictions plan.")
    entries = [Entry(*row) for row in images.itertuples(index=False)]
    with temporary_folder() as work:
        reader = _Reader(source, outputs.predictor, work)
        predicted = outputs.predictor.predict_items(list(enumerate(entries)), reader.read)
        results = [(entry, result) for (_, entry), result in _logged(predicted)]
    _require_readable_source(source, results)
    rows = _rows(results, outputs.class_names)
    if not folder.write_shard(shard, rows.assign(plan=shard.plan, model=folder.model)):
        log.info("predictions: another process finished the shard first shard=%s", shard)
        return {"num_finished_before": 1}
    counts = {"num_shards": 1, "num_images": len(rows), "num_unreadable": int((rows["problem"] != "").sum()),
              "num_left": len(entries) - len(rows)}
    log.info("predictions: finished shard=%s %s", shard, " ".join(f"{name}={n}" for name, n in counts.items()))
    return counts


def _require_readable_source(source: ListedSource, results: Sequence[tuple[Entry, Result]]) -> None:
    """Raise ServiceError if no image was predicted although the source still lists some, or if it cannot be listed.

    This machine may lack the mount or the permission, so the shard must not count as finished.
    """
    failures = {entry: result for entry, result in results if isinstance(result, Failure)}
    left = {entry: failure.reason for entry, failure in failures.items() if not failure.is_permanent}
    if not left or len(failures) < len(results):
        return
    try:
        listed = left.keys() & set(list_source(source).entries)
    except DataError as error:
        raise ServiceError(f"{error} The images of the shard were there when the plan was made.") from error
    if listed:
        entry = min(listed)
        raise ServiceError(f"{source.setting}: this machine can read no image of the shard. {entry.path}: "
                           f"{left[entry]}. Let it read the images or remove them, then run the task again.")


@dataclass(frozen=True)
class _Reader:
    """Reads images of a source; ``work`` is a folder for copies."""

    source: ListedSource
    predictor: "ImagePredictor"
    work: Path

    def read(self, item: Item) -> Pixels | Failure:
        """Return the image in the network's input size, or the reason why it could not be read."""
        position, entry = item
        if entry.num_bytes > self.predictor.max_megapixels * 1e6 * MAX_BYTES_PER_PIXEL:
            return Failure(f"its {entry.num_bytes} bytes are more than any image of "
                           f"{self.predictor.max_megapixels:g} megapixels needs", is_permanent=True)
        copy = self.work / str(position)
        try:
            return self.predictor.read(self.source.fetch(entry, copy))
        except ImageDecodeError as error:
            return Failure(f"cannot be decoded: {error}", is_permanent=True)
        except SourceChangedError:
            return Failure("it was changed or removed after the plan was made", is_permanent=False)
        except ObjectAccessError as error:
            return Failure(str(error), is_permanent=False)
        except OSError as error:
            return Failure(f"cannot be read: {error.strerror or error}", is_permanent=False)
        finally:
            copy.unlink(missing_ok=True)


def _logged(predicted: Iterator[tuple[Item, Result]]) -> Iterator[tuple[Item, Result]]:
    for (position, entry), result in predicted:
        if isinstance(result, Failure):
            log.warning("predictions: no prediction path=%s: %s", entry.path, result.reason)
        yield (position, entry), result


def _rows(predicted: Sequence[tuple[Entry, Result]], class_names: list[str]) -> pd.DataFrame:
    """Return the rows of a shard, without images that a later plan repeats."""
    kept = [(entry, result) for entry, result in predicted
            if not isinstance(result, Failure) or result.is_permanent]
    missing = np.full(len(class_names), np.nan)
    probabilities = np.array([missing if isinstance(result, Failure) else result for _, result in kept], np.float32)
    probabilities = probabilities.reshape(len(kept), len(class_names))
    problems = [result.reason if isinstance(result, Failure) else "" for _, result in kept]
    classes = [None if problem else class_names[int(row.argmax())]
               for problem, row in zip(problems, probabilities, strict=True)]
    rows = pd.DataFrame({
        "id": [entry.path for entry, _ in kept], "version": [entry.version for entry, _ in kept], "class": classes,
        "probability": probabilities.max(1), "problem": problems,
    }).astype({"id": "str", "version": "str", "class": "str", "problem": "str"})
    return rows.join(pd.DataFrame(probabilities, columns=probability_columns(class_names)))
