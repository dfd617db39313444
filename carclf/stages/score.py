"""Look once for the public score of a submission."""

from typing import Any

from carclf.artifacts import Evaluation, Metrics, Provenance, PublicScore, StageContext, Submission, build
from carclf.champion import record_score
from carclf.errors import ConfigError, DataError, StageWaiting
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient, SubmissionState, ungraded_error
from carclf.services.storage import Store
from carclf.stats import accuracy_gap_warning

VERSION = 3


def score(
    submission: Submission, evaluation: Evaluation, context: StageContext
) -> tuple[PublicScore, bool]:
    """The public score ("" where the competition gives none) beside the validation; NotYet while Kaggle scores.

    ``rank`` is the place that the score takes on the public leaderboard, ``gap`` what validation promised more,
    ``warning`` is not "" where that is more than chance. The champion's history gets them too. An empty score is no
    final answer: the next run asks again.
    """
    _config, store, _salt = context.config, context.store, context.salt
    found, reused = _found_or_asked(submission, evaluation, context)
    record_score(store, evaluation.inputs["model"], found.metrics)
    if warning := found.metrics["warning"]:
        log.warning("score: %s", warning)
    return found, reused


def _found_or_asked(
    submission: Submission, evaluation: Evaluation, context: StageContext
) -> tuple[PublicScore, bool]:
    config, store, salt = context.config, context.store, context.salt
    inputs = {"submission": submission.key, "evaluation": evaluation.key}

    def settings(graded: bool) -> dict[str, Any]:
        return {"competition": config.competition, "graded": graded, "salt": salt}

    if found := PublicScore.find(store, Provenance(VERSION, inputs, settings(True)).key(PublicScore)):
        return found, True
    kaggle = KaggleClient(config.competition)
    state = _look(submission, kaggle, store)
    metrics: Metrics = {"ref": state.ref, "public_score": "", "rank": "", "gap": "", "warning": ""}
    if state.public_score is not None:
        metrics |= _compared(state.public_score, submission, evaluation) | {"rank": _rank(state.public_score, kaggle)}
    return build(PublicScore, lambda _: metrics, Provenance(VERSION, inputs, settings(state.public_score is not None)), store)


def _look(submission: Submission, kaggle: KaggleClient, store: Store) -> SubmissionState:
    # By the mark and not by the number, which another server may have given to another file.
    file = submission.files["submission.csv"]
    mark = file.sha256[:16]
    state = kaggle.find_submission(mark)
    if state is None:
        raise DataError(f"Kaggle knows no submission with the mark {mark}: it was sent to another endpoint, or "
                        "removed. Run again with force to send it again.")
    if state.status == "ERROR":
        raise ungraded_error(state, kaggle.competition, f"{store.url}/{file.key}", mark)
    if state.status != "COMPLETE":
        raise StageWaiting(f"submission {state.ref} is {state.status}")
    return state


def _compared(public_score: float, submission: Submission, evaluation: Evaluation) -> Metrics:
    if not 0 <= public_score <= 1:  # not an accuracy, whatever it is
        return {"public_score": public_score}
    validation = (evaluation.number("val_accuracy"), evaluation.number("val_accuracy_low"),
                  evaluation.number("val_accuracy_high"))
    return {"public_score": public_score, "gap": round(validation[0] - public_score, 5),
            "warning": accuracy_gap_warning(validation, public_score, int(submission.number("num_rows")))}


def _rank(public_score: float, kaggle: KaggleClient) -> int | str:
    try:
        rank = kaggle.leaderboard_rank(public_score)
    except ConfigError as error:  # a score without a place is a score
        log.warning("score: the leaderboard cannot be read: %s", error)
        return ""
    return "" if rank is None else rank
