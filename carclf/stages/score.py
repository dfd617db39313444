"""Look once for the public score of a submission."""

from pathlib import Path

from carclf.artifacts import Figures, PublicScore, Submission, build
from carclf.config import Config
from carclf.errors import DataError
from carclf.services.kaggle import Kaggle
from carclf.services.storage import Store

VERSION = 1


class NotScoredYet(Exception):
    """Kaggle is still scoring: look again later."""


def score(submission: Submission, config: Config, store: Store, *, salt: str = "") -> tuple[PublicScore, bool]:
    """The public score ("" where the competition gives none); NotScoredYet while Kaggle scores."""

    def make(folder: Path) -> Figures:
        state = Kaggle(config.competition).submission(int(submission.figures["ref"]))
        if state.status == "ERROR":
            raise DataError(f"Kaggle could not score submission {state.ref}: {state.error}")
        if state.status != "COMPLETE":
            raise NotScoredYet(f"submission {state.ref} is {state.status}")
        return {"ref": state.ref, "public_score": "" if state.public_score is None else state.public_score}

    return build(PublicScore, make, store=store, version=VERSION, inputs={"submission": submission.key},
                 settings={"competition": config.competition, "salt": salt})
