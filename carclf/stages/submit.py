"""Predict the test images, keep the predictions, and submit them to Kaggle once."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from carclf.artifacts import (
    Archive,
    Dataset,
    Metrics,
    Model,
    Prediction,
    Provenance,
    Split,
    StageContext,
    Submission,
    build,
)
from carclf.champion import promotion_of_model, read_state
from carclf.dataset.archives import extract_images
from carclf.errors import ConfigError, DataError, StageSkipped
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient, ungraded_error
from carclf.services.kaggle.submitting import Attempt, SubmissionFile, require_open, submit_once
from carclf.services.storage import Store, parse_object

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VERSION = 3
NUM_COLUMNS = 2  # id and class
_NO_ATTEMPT = b"null"


def submit(
    archive: Archive, dataset: Dataset, split: Split, model: Model, context: StageContext
) -> tuple[Submission, bool]:
    """Return the submission of the model's predictions of the test images, and whether it was reused.

    Raise ConfigError if the model was never promoted. Raise StageSkipped if the source is not a competition, or if the
    competition accepts no files. Raise StageWaiting, and keep the predictions, if Kaggle accepts no more submissions
    today or if it is unknown whether it received them.
    """
    if obstacle := context.config.submission_obstacle:
        raise StageSkipped(obstacle)
    state = read_state(context.store)
    if state is None or promotion_of_model(state, model.key) is None:
        raise ConfigError(f"The model {model.key} was never promoted, so it is not submitted. Promote it first: carclf "
                          "promote --run RUN; if gate.approval is required: carclf promote --run RUN --approved-by "
                          "NAME.")
    if not Prediction.find(context.store, _prediction_provenance(archive, dataset, model, context).key(Prediction)):
        require_open(KaggleClient(context.config.competition))
    prediction, _ = predict_test(archive, dataset, split, model, context)
    return send_submission(prediction, dataset, split, model, context)


def predict_test(
    archive: Archive, dataset: Dataset, split: Split, model: Model, context: StageContext
) -> tuple[Prediction, bool]:
    """Return the predictions of the test images in the order of the sample submission, and whether they were reused."""
    store = context.store

    def make(folder: Path) -> Metrics:
        import numpy as np
        import pandas as pd

        from carclf.dataset.competition_tables import read_sample_submission

        sample = dataset.path(store, "sample-submission.csv")
        ids = read_sample_submission(sample.parent)["Id"].tolist()
        class_names = [str(name) for name in split.class_names]
        probabilities = _predict_probabilities(ids, archive, dataset, model, context)
        table = pd.DataFrame(probabilities, columns=[f"p{name}" for name in class_names])
        table.insert(0, "id", ids)
        table.to_parquet(folder / "probabilities.parquet", index=False)
        predictions = pd.DataFrame({"Id": ids, "Category": np.array(class_names)[probabilities.argmax(1)]})
        predictions.to_csv(folder / "submission.csv", index=False)
        submission = (folder / "submission.csv").read_text(encoding="utf-8")
        check_submission(submission, sample.read_text(encoding="utf-8"), class_names)
        return {"num_rows": len(predictions)}

    return build(Prediction, make, _prediction_provenance(archive, dataset, model, context), store)


def _prediction_provenance(archive: Archive, dataset: Dataset, model: Model, context: StageContext) -> Provenance:
    inputs = {"archive": archive.key, "dataset": dataset.key, "model": model.key}
    settings = context.config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": context.salt}
    return Provenance(VERSION, inputs, settings)


def send_submission(
    prediction: Prediction, dataset: Dataset, split: Split, model: Model, context: StageContext
) -> tuple[Submission, bool]:
    """Check a prediction's ``submission.csv`` again and send it, unless Kaggle has it already.

    Raise DataError if it does not match the sample submission, or if Kaggle has it and could not score it.
    """
    store, competition = context.store, context.config.competition
    file = prediction.file("submission.csv")
    fingerprint = file.sha256[:16]

    def make(_: Path) -> Metrics:
        path = prediction.path(store, "submission.csv")
        sample = dataset.path(store, "sample-submission.csv").read_text(encoding="utf-8")
        check_submission(path.read_text(encoding="utf-8"), sample, [str(name) for name in split.class_names])
        claim = StoredClaim(store, f"submissions/claims/{competition}-{fingerprint}.json")
        submission = SubmissionFile(path, fingerprint, f"carclf {fingerprint} model {model.key}")
        state = submit_once(KaggleClient(competition), submission, claim)
        if state.status == "ERROR":
            raise ungraded_error(state, competition, f"{store.url}/{file.key}", fingerprint)
        log.info("submit: submitted ref=%d competition=%s", state.ref, competition)
        return {"ref": state.ref, "num_rows": prediction.metric("num_rows")}

    settings = {"competition": competition, "salt": context.salt}
    provenance = Provenance(VERSION, {"prediction": prediction.key}, settings)
    return build(Submission, make, provenance, store, {"submission.csv": file})


class StoredClaim:
    """The claim of a file in the store, changed by compare-and-swap."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._data: bytes | None = None  # what was read or written last

    def read(self) -> Attempt | None:
        """Return the recorded attempt; raise DataError if the object is damaged."""
        current = self._store.read(self._key)
        self._data = current.data if current else None
        if self._data is None or self._data == _NO_ATTEMPT:
            return None
        fix = ("It is unknown whether the predictions were submitted. Search for the fingerprint in its name in the "
               "descriptions of your submissions on Kaggle. If it is missing there, delete this file and run again.")
        return parse_object(Attempt, self._data, f"{self._store.url}/{self._key}", fix)

    def replace(self, attempt: Attempt | None) -> bool:
        """Write the attempt; return False if the object is not the one that was read or written last."""
        # The version is read before a write: a read that fails after the write would leave a claim of nothing sent.
        current = self._store.read(self._key)
        if (current.data if current else None) != self._data:
            return False
        data = attempt.model_dump_json().encode() if attempt else _NO_ATTEMPT
        is_written = self._store.write_if(self._key, data, current.version if current else None)
        self._data = data if is_written else self._data
        return is_written


def _predict_probabilities(
    ids: list[str], archive: Archive, dataset: Dataset, model: Model, context: StageContext
) -> "npt.NDArray[np.float64]":
    from carclf.inference.tta import predict
    from carclf.pipeline.batches import Examples, LetterboxedSource

    index = dataset.index(context.store)
    test = index[index["label"] < 0].set_index("id").loc[ids].reset_index()
    network = model.network(context.store)
    examples = Examples.from_index(test, extract_images(archive, context.store), model.image_size)
    return predict(network, LetterboxedSource(examples, model.image_size), context.config.evaluate)


def check_submission(text: str, sample: str, class_names: list[str]) -> None:
    """Raise DataError unless the file has the sample's header, its ids in the same order, and known classes only."""
    rows = list(csv.reader(io.StringIO(text)))
    sample_rows = list(csv.reader(io.StringIO(sample)))
    if problem := _submission_problem(rows, sample_rows, class_names):
        raise DataError(f"submission.csv {problem}. It was not sent. Run again with --set force=true.")


def _submission_problem(rows: list[list[str]], sample: list[list[str]], class_names: list[str]) -> str:
    """Return the difference between a submission and the sample, or an empty string."""
    if not rows or rows[0] != sample[0] or len(sample[0]) != NUM_COLUMNS:
        return f"has the columns {rows[:1]}, not {sample[0]}"
    if malformed := [row for row in rows if len(row) != NUM_COLUMNS]:
        return f"has a row of {len(malformed[0])} values, {malformed[0]!r:.80}, where {NUM_COLUMNS} are expected"
    ids = [row[0] for row in rows[1:]]
    if num_repeated := len(ids) - len(set(ids)):
        return f"has {num_repeated} repeated ids"
    if ids != [row[0] for row in sample[1:]]:
        return f"has {len(ids)} rows that are not the sample's {len(sample) - 1} ids in their order"
    if unknown := {row[1] for row in rows[1:]} - set(class_names):
        return f"has unknown classes {sorted(unknown)}"
    return ""
