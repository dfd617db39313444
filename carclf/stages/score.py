"""Look once for the public score of a submission."""

from typing import Any

from carclf.artifacts import Figures, PublicScore, Submission, artifact_key, build
from carclf.config import Config
from carclf.errors import DataError, NotYet
from carclf.services.kaggle import Kaggle, SubmissionState
from carclf.services.storage import Store

VERSION = 2


def score(submission: Submission, config: Config, store: Store, *, salt: str = "") -> tuple[PublicScore, bool]:
    """The public score ("" where the competition gives none); NotYet while Kaggle scores.

    An empty score is no final answer: the next run asks again.
    """
    inputs = {"submission": submission.key}

    def settings(graded: bool) -> dict[str, Any]:
        return {"competition": config.competition, "graded": graded, "salt": salt}

    if found := PublicScore.find(store, artifact_key(PublicScore, VERSION, inputs, settings(True))):
        return found, True
    state = _look(submission, config)
    figures: Figures = {"ref": state.ref, "public_score": "" if state.public_score is None else state.public_score}
    return build(PublicScore, lambda _: figures, store=store, version=VERSION, inputs=inputs,
                 settings=settings(state.public_score is not None))


def _look(submission: Submission, config: Config) -> SubmissionState:
    # By the mark and not by the number, which another server may have given to another file.
    mark = submission.files["submission.csv"].sha256[:16]
    state = Kaggle(config.competition).find_submission(mark)
    if state is None:
        raise DataError(f"Kaggle knows no submission with the mark {mark}: it was sent to another endpoint, or "
                        "removed. Run again with force to send it again.")
    if state.status == "ERROR":
        raise DataError(f"Kaggle could not score submission {state.ref}: {state.error}")
    if state.status != "COMPLETE":
        raise NotYet(f"submission {state.ref} is {state.status}")
    return state
