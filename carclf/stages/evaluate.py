"""Evaluate the candidate on the validation images, and the champion on the same images."""

from carclf.artifacts import Archive, Evaluation, Model, Split, StageContext
from carclf.champion import champion_event
from carclf.evaluation.evaluate import evaluate_champion, evaluate_model
from carclf.progress import log


def evaluate(archive: Archive, split: Split, model: Model, context: StageContext) -> tuple[Evaluation, bool]:
    """Return the candidate's evaluation, and whether everything was reused.

    The champion's evaluation on the same images is kept in the store for the gate.
    """
    evaluation, reused = evaluate_model(archive, split, model, context)
    champion = champion_event(context.store)
    if champion is None or champion["model"] == model.key:
        return evaluation, reused
    champion_evaluation, champion_reused = evaluate_champion(archive, split, champion, context)
    value, champion_value = (item.number("val_metric") for item in (evaluation, champion_evaluation))
    log.info("evaluate: metric=%s val_metric=%.4f champion=%s champion_val_metric=%.4f", split.metric_name, value,
             champion["model"], champion_value)
    return evaluation, reused and champion_reused
