"""Measure the candidate on the validation images, and the champion on the same ones."""

from carclf.artifacts import Archive, Evaluation, Model, Split, StageContext
from carclf.champion import champion_event, load_event_model
from carclf.evaluation.evaluate import evaluate_model, with_champion_tta
from carclf.progress import log


def evaluate(
    archive: Archive, split: Split, model: Model, context: StageContext
) -> tuple[Evaluation, bool]:
    """The candidate's evaluation; the champion's is left in the store, where the gate finds it."""
    config, store, salt = context.config, context.store, context.salt
    found, reused = evaluate_model(archive, split, model, context)
    champion = champion_event(store)
    if champion is None or champion["model"] == model.key:
        return found, reused
    own = with_champion_tta(config, champion, store)
    theirs, known = evaluate_model(archive, split, load_event_model(store, champion), StageContext(store, own, salt))
    log.info("evaluate: on these images the champion %s has the accuracy %.4f, the candidate %.4f",
             champion["model"], theirs.metrics["val_accuracy"], found.metrics["val_accuracy"])
    return found, reused and known
