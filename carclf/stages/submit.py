"""Predict the test images, keep the predictions, and submit them to Kaggle once."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carclf.artifacts import (
    Archive,
    Classifier,
    Dataset,
    Evaluation,
    Metrics,
    Prediction,
    Provenance,
    StageContext,
    Submission,
    build,
)
from carclf.champion import require_promoted
from carclf.dataset.archives import extract_images
from carclf.dataset.detection.result import SampleSubmission, SubmissionFormat, read_sample_submission
from carclf.errors import StageSkipped
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient, ungraded_error
from carclf.services.kaggle.submitting import Attempt, SubmissionFile, require_open, submit_once
from carclf.services.storage import Store, parse_object
from carclf.stats import probability_columns

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VERSION = 4
_NO_ATTEMPT = b"null"


def submit(
    archive: Archive, dataset: Dataset, model: Classifier, evaluation: Evaluation, context: StageContext
) -> tuple[Submission, bool]:
    """Return the submission of the model's predictions of the test images, and whether it was reused.

    The evaluation of a refitted model is that of its measured model, which the metrics name. Raise ConfigError if that
    was never promoted. Raise StageSkipped if the source is not a competition, or if the competition accepts no files.
    Raise StageWaiting, and keep the predictions, if Kaggle accepts no more submissions today or if it is unknown
    whether it received them.
    """
    if obstacle := context.config.submission_obstacle:
        raise StageSkipped(obstacle)
    require_promoted(context.store, model.measured_key)
    provenance = _prediction_provenance(archive, dataset, model, evaluation, context)
    if not Prediction.find(context.store, provenance.key(Prediction)):
        require_open(KaggleClient(context.config.competition))
    prediction, _ = predict_test(archive, dataset, model, evaluation, context)
    submission, reused = send_submission(prediction, dataset, context)
    return submission.model_copy(update={"metrics": submission.metrics | {"model": model.measured_key}}), reused


def predict_test(
    archive: Archive, dataset: Dataset, model: Classifier, evaluation: Evaluation, context: StageContext
) -> tuple[Prediction, bool]:
    """Return the predictions of the test images in the order of the sample submission, and whether they were reused.

    The evaluation's temperature calibrates the probabilities.
    """
    store = context.store

    def make(folder: Path) -> Metrics:
        import pandas as pd

        from carclf.dataset.submission_file import check_submission, submission_table
        from carclf.inference.calibration import apply_temperature

        sample, form = _sample_submission(dataset, context)
        probabilities = _predict_probabilities(sample.test_ids, archive, dataset, model, context)
        calibrated = apply_temperature(probabilities, evaluation.number("temperature"))
        table = pd.DataFrame(calibrated, columns=probability_columns(model.class_names))
        table.insert(0, "id", list(sample.test_ids))
        table.to_parquet(folder / "probabilities.parquet", index=False)
        predictions = submission_table(sample, form, model.class_names, calibrated)
        predictions.to_csv(folder / "submission.csv", index=False)
        check_submission((folder / "submission.csv").read_text(encoding="utf-8"), sample, form)
        return {"num_rows": len(predictions)}

    return build(Prediction, make, _prediction_provenance(archive, dataset, model, evaluation, context), store)


def _prediction_provenance(
    archive: Archive, dataset: Dataset, model: Classifier, evaluation: Evaluation, context: StageContext
) -> Provenance:
    inputs = {"archive": archive.key, "dataset": dataset.key, "model": model.key}
    evaluate, temperature = context.config.evaluate, evaluation.number("temperature")
    settings = evaluate.model_dump(exclude={"batch_size"}) | {"temperature": temperature, "salt": context.salt}
    settings |= {"positive_class": context.config.submit.positive_class}
    return Provenance(VERSION, inputs, settings)


def _sample_submission(dataset: Dataset, context: StageContext) -> tuple[SampleSubmission, SubmissionFormat]:
    sample = read_sample_submission(dataset.path(context.store, "layout.json"))
    if sample.submission is None:
        raise StageSkipped("the data have no sample submission: nothing is submitted")
    return sample, sample.submission.with_positive_class(context.config.submit.positive_class)


def send_submission(prediction: Prediction, dataset: Dataset, context: StageContext) -> tuple[Submission, bool]:
    """Check a prediction's ``submission.csv`` again and send it, unless Kaggle has it already.

    Raise DataError if it does not match the sample submission, or if Kaggle has it and could not score it.
    """
    store, competition = context.store, context.config.competition
    file = prediction.file("submission.csv")
    fingerprint = file.sha256[:16]

    def make(_: Path) -> Metrics:
        from carclf.dataset.submission_file import check_submission

        path = prediction.path(store, "submission.csv")
        check_submission(path.read_text(encoding="utf-8"), *_sample_submission(dataset, context))
        claim = StoredClaim(store, f"submissions/claims/{competition}-{fingerprint}.json")
        submission = SubmissionFile(path, fingerprint, f"carclf {fingerprint} model {prediction.input('model')}")
        state = submit_once(KaggleClient(competition), submission, claim, context.config.submit.max_per_day)
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
    ids: Sequence[str], archive: Archive, dataset: Dataset, model: Classifier, context: StageContext
) -> "npt.NDArray[np.float64]":
    from carclf.inference.tta import predict
    from carclf.pipeline.batches import Examples, LetterboxedSource

    index = dataset.index(context.store)
    test = index[index["source"] == "test"].set_index("id").loc[list(ids)].reset_index()
    network = model.network(context.store)
    examples = Examples.from_index(test, extract_images(archive, context.store), model.image_size)
    return predict(network, LetterboxedSource(examples, model.image_size), context.config.evaluate)
