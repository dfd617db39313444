"""Predict the test pictures, keep that, and send it to Kaggle, once."""

import csv
import io
import time
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
from carclf.config import Config
from carclf.errors import ConfigError, DataError, StageWaiting
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient, SubmissionState, ungraded_error
from carclf.services.storage import Store, acquire_lease, release_lease

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VERSION = 3
# It is renewed before each last look at Kaggle's list, and the look repeated where it leaves too little for one call.
# Nothing is sent that late, and the list shows what was counted long before another process may claim.
CLAIM_SECONDS = 180.0


def submit(
    archive: Archive, dataset: Dataset, split: Split, model: Model, context: StageContext
) -> tuple[Submission, bool]:
    """The reference under which Kaggle counted the model's predictions of the test pictures.

    ConfigError where the model was never promoted; NotYet, with the predictions kept, where Kaggle takes no more today.
    """
    store = context.store
    _require_promoted(model, store)
    prediction, _ = predict_test(archive, dataset, split, model, context)
    return send_submission(prediction, dataset, split, model, context)


def predict_test(
    archive: Archive, dataset: Dataset, split: Split, model: Model, context: StageContext
) -> tuple[Prediction, bool]:
    """``probabilities.parquet`` of the test pictures and ``submission.csv``, both in the sample's order."""
    config, store, salt = context.config, context.store, context.salt

    def make(folder: Path) -> Metrics:
        import numpy as np
        import pandas as pd

        sample = dataset.path(store, "sample-submission.csv")
        ids = pd.read_csv(sample, dtype={"Id": str})["Id"].tolist()
        class_names = [str(name) for name in split.class_names]
        probabilities = _probabilities(ids, archive, dataset, model, config, store)
        table = pd.DataFrame(probabilities, columns=[f"p{name}" for name in class_names])
        table.insert(0, "id", ids)
        table.to_parquet(folder / "probabilities.parquet", index=False)
        answers = pd.DataFrame({"Id": ids, "Category": np.array(class_names)[probabilities.argmax(1)]})
        answers.to_csv(folder / "submission.csv", index=False)
        check_submission((folder / "submission.csv").read_text(), sample.read_text(), class_names)
        return {"num_rows": len(answers)}

    return build(Prediction, make, Provenance(VERSION, {"archive": archive.key, "dataset": dataset.key, "model": model.key}, config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": salt}), store)


def send_submission(
    prediction: Prediction, dataset: Dataset, split: Split, model: Model, context: StageContext
) -> tuple[Submission, bool]:
    """Check a prediction's ``submission.csv`` once more and send it, unless Kaggle has it already.

    DataError where it is not as the sample wants it, or where Kaggle has it and could not grade it.
    """
    config, store, salt = context.config, context.store, context.salt
    file = prediction.files["submission.csv"]
    mark = file.sha256[:16]

    def make(_: Path) -> Metrics:
        path, text = prediction.verified_path(store, "submission.csv"), f"carclf {mark} model {model.key}"
        sample = dataset.verified_path(store, "sample-submission.csv").read_text()
        check_submission(path.read_text(), sample, [str(name) for name in split.class_names])
        sent = _send_once(path, mark, text, config.competition, store)
        if sent.status == "ERROR":
            raise ungraded_error(sent, config.competition, f"{store.url}/{file.key}", mark)
        log.info("submit: submission %d of %s", sent.ref, config.competition)
        return {"ref": sent.ref, "num_rows": prediction.metrics["num_rows"]}

    return build(Submission, make, Provenance(VERSION, {"prediction": prediction.key}, {"competition": config.competition, "salt": salt}), store, {"submission.csv": file})


def _send_once(path: Path, mark: str, description: str, competition: str, store: Store) -> SubmissionState:
    key = f"submissions/claims/{competition}-{mark}.json"

    def require_claim() -> float:
        # Between the look at Kaggle's list and the sending another process could do the same.
        until = time.monotonic() + CLAIM_SECONDS
        if not acquire_lease(store, key, CLAIM_SECONDS):
            raise StageWaiting(f"another process is sending the predictions {mark}, or broke off less than "
                         f"{CLAIM_SECONDS / 60:.0f} minutes ago")
        return until

    kaggle = KaggleClient(competition)
    try:
        return kaggle.submit(path, description=description, fingerprint=mark, before_sending=require_claim)
    except BaseException:
        if not kaggle.submission_uncertain:  # otherwise the claim runs out, while the list comes to show what was counted
            release_lease(store, key)
        raise


def _require_promoted(model: Model, store: Store) -> None:
    state = read_state(store)
    if state is None or promotion_of_model(state, model.key) is None:
        raise ConfigError(f"The model {model.key} was never promoted, so it is not submitted. Run promote for its run "
                          "first (carclf promote --run RUN); where gate.approval is required, somebody must approve: "
                          "carclf promote --run RUN --approved-by NAME.")


def _probabilities(
    ids: list[str], archive: Archive, dataset: Dataset, model: Model, config: Config, store: Store
) -> "npt.NDArray[np.float64]":
    import keras
    import pandas as pd

    from carclf.dataset.archives import extract_images
    from carclf.inference.tta import predict
    from carclf.pipeline.batches import Examples, LetterboxedSource

    index = pd.read_parquet(dataset.path(store, "index.parquet"))
    test = index[index["label"] < 0].set_index("id").loc[ids].reset_index()
    network = keras.models.load_model(model.path(store, "model.keras"), compile=False)
    size = model.image_size
    return predict(network, LetterboxedSource(Examples.from_index(test, extract_images(archive, store), size), size), config.evaluate)


def check_submission(text: str, sample: str, class_names: list[str]) -> None:
    """Raise DataError unless the file has the sample's header, its ids in its order, and known classes only."""
    rows, wanted = list(csv.reader(io.StringIO(text))), list(csv.reader(io.StringIO(sample)))
    if fault := _fault(rows, wanted, class_names):
        raise DataError(f"submission.csv {fault}; it was not sent. Run again with force.")


def _fault(rows: list[list[str]], wanted: list[list[str]], class_names: list[str]) -> str:
    """What of a submission is not as the sample wants it; "" where all is."""
    if not rows or rows[0] != wanted[0] or len(wanted[0]) != 2:
        return f"has the columns {rows[:1]}, not two as in {wanted[0]}"
    if broken := [row for row in rows if len(row) != 2]:
        return f"has a row of {len(broken[0])} values, {broken[0]!r:.80}, where two are expected"
    ids = [row[0] for row in rows[1:]]
    if len(set(ids)) != len(ids):
        return f"has {len(ids) - len(set(ids))} ids twice"
    if ids != [row[0] for row in wanted[1:]]:
        return f"has {len(ids)} rows that are not the sample's {len(wanted) - 1} ids in their order"
    if strangers := {row[1] for row in rows[1:]} - set(class_names):
        return f"names unknown classes {sorted(strangers)}"
    return ""
