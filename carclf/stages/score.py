"""Ask Kaggle for the public score of a submission."""

import math

from carclf.artifacts import Archive, Evaluation, Metrics, Provenance, PublicScore, StageContext, Submission, build
from carclf.champion import record_score
from carclf.dataset.detection.metric import parse_metric
from carclf.errors import ConfigError, DataError, ServiceError, StageWaiting
from carclf.metrics import METRICS, Metric
from carclf.progress import log
from carclf.services.kaggle.client import KaggleClient, SubmissionState, ungraded_error
from carclf.services.storage import Store
from carclf.stats import Proportion, gap_warning, wilson_interval

VERSION = 5


def score(submission: Submission, evaluation: Evaluation, context: StageContext) -> tuple[PublicScore, bool]:
    """Return the public score, and whether it was reused. The score is also added to the champion's history.

    The metrics are ``public_score``, ``rank`` on the public leaderboard, ``gap`` (validation metric minus public
    score) and ``warning``, which is not empty if the gap is larger than chance explains. There is no gap if the
    competition's metric is known and not that of the validation. ``public_score`` is empty if
    the competition has no public scores; the next run requests it again. Raise StageWaiting if Kaggle has not scored
    the submission yet, DataError if Kaggle does not list the submission or could not score it.
    """
    public_score, reused = _public_score(submission, evaluation, context)
    record_score(context.store, evaluation.input("model"), public_score.metrics)
    if warning := public_score.metric("warning"):
        log.warning("score: %s", warning)
    return public_score, reused


def _public_score(submission: Submission, evaluation: Evaluation, context: StageContext) -> tuple[PublicScore, bool]:
    store, competition = context.store, context.config.competition

    def provenance(graded: bool) -> Provenance:
        inputs = {"submission": submission.key, "evaluation": evaluation.key}
        return Provenance(VERSION, inputs, {"competition": competition, "graded": graded, "salt": context.salt})

    if existing := PublicScore.find(store, provenance(True).key(PublicScore)):
        return existing, True
    kaggle = KaggleClient(competition)
    state = _submission_state(submission, kaggle, store)
    metrics: Metrics = {"ref": state.ref, "public_score": "", "rank": "", "gap": "", "warning": ""}
    if state.public_score is not None:
        public_metric = _public_metric(evaluation, store)
        metrics["public_score"] = state.public_score
        metrics["rank"] = _rank(state.public_score, kaggle, public_metric)
        metrics |= _compare_with_validation(state.public_score, public_metric, submission, evaluation)
    return build(PublicScore, lambda _: metrics, provenance(state.public_score is not None), store)


def _submission_state(submission: Submission, kaggle: KaggleClient, store: Store) -> SubmissionState:
    # Search for the fingerprint in the description: another server may use the same number for another file.
    file = submission.file("submission.csv")
    fingerprint = file.sha256[:16]
    state = kaggle.find_submission(fingerprint, ref=int(submission.number("ref")))
    if state is None:
        raise DataError(f"Kaggle does not list a submission with the fingerprint {fingerprint}: it was sent to another "
                        f"endpoint, or removed. Submit {store.url}/{file.key} by hand with the fingerprint in the "
                        "description, then run again.")
    if state.status == "ERROR":
        raise ungraded_error(state, kaggle.competition, f"{store.url}/{file.key}", fingerprint)
    if state.status != "COMPLETE":
        raise StageWaiting(f"submission {state.ref} is {state.status}")
    return state


def _public_metric(evaluation: Evaluation, store: Store) -> Metric:
    """Return the metric of the competition's archive, or that of the validation if it is unknown."""
    archive = Archive.find(store, evaluation.input("archive"))
    name = parse_metric(str(archive.metrics.get("evaluation_metric", ""))) if archive else ""
    return METRICS[name or str(evaluation.metric("metric"))]


def _compare_with_validation(
    public_score: float, public_metric: Metric, submission: Submission, evaluation: Evaluation
) -> Metrics:
    """Return ``gap`` and ``warning``, or nothing if the public score is of another metric than the validation's."""
    metric = METRICS[str(evaluation.metric("metric"))]
    is_same = metric == public_metric or (metric.is_accuracy and public_metric.is_accuracy)
    if not is_same or not metric.is_valid(public_score):
        log.info("score: no gap: the public score %s is of another metric than the validation: metric=%s "
                 "kaggle_metric=%s", public_score, metric.name, "" if is_same else public_metric.name)
        return {}
    validation = Proportion(*map(evaluation.number, ("val_metric", "val_metric_low", "val_metric_high")))
    num_test = int(submission.number("num_rows"))
    if metric.is_accuracy:
        public = Proportion(public_score, *wilson_interval(round(public_score * num_test), num_test))
    else:
        public = _with_interval(public_score, validation, evaluation.number("num_images") / num_test)
    warning = gap_warning(metric.noun, validation, public, metric.higher_is_better)
    return {"gap": round(validation.value - public_score, 5), "warning": warning}


def _with_interval(public_score: float, validation: Proportion, ratio: float) -> Proportion:
    """Return the public score with the validation metric's interval, scaled by the square root of a ratio of images."""
    scale = math.sqrt(ratio)
    low, high = ((bound - validation.value) * scale for bound in (validation.low, validation.high))
    return Proportion(public_score, public_score + low, public_score + high)


def _rank(public_score: float, kaggle: KaggleClient, metric: Metric) -> int | str:
    try:
        rank = kaggle.leaderboard_rank(public_score, higher_is_better=metric.higher_is_better)
    except (ConfigError, ServiceError) as error:  # the score is valid without a rank
        log.warning("score: cannot read the leaderboard: %s", error)
        return ""
    return "" if rank is None else rank
