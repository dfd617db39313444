"""The gate's rules: each has a value, a limit and a verdict; together they say whether a candidate is promoted.

What was not measured, or is no number, never passes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carclf.artifacts import Metrics
from carclf.config import Gate
from carclf.errors import ConfigError
from carclf.formatting import finite_number
from carclf.stats import PairedCounts

MEASURE = "measure it again, in a new run with --set force=true"
MAX_CLASSES = 5  # that a sentence names
ALWAYS_NAMED = ("accuracy", "champion")


@dataclass(frozen=True)
class Rule:
    """One rule's verdict; ``clause`` stands in the decision's sentence, ``detail`` only in the table."""

    rule: str
    value: float | None
    limit: float | None
    passed: bool
    clause: str
    detail: str = ""

    def row(self) -> dict[str, Any]:
        """The rule as it stands in ``decision.json``."""
        text = f"{self.clause}: {self.detail}" if self.detail else self.clause
        return {"rule": self.rule, "value": self.value, "limit": self.limit, "passed": self.passed, "text": text}


@dataclass(frozen=True)
class ChampionComparison:
    """A champion beside the candidate; what tells nothing is not among the paired images.

    ``num_trained_on`` images trained it; ``num_same_members`` are answered for both by the same members.
    """

    champion: str
    paired: PairedCounts
    num_trained_on: int = 0
    num_same_members: int = 0


def evaluate_rules(
    metrics: Metrics, found: Mapping[str, Any], comparison: ChampionComparison | None, threshold: float, gate: Gate
) -> list[Rule]:
    """The verdicts on an evaluation's metrics and its ``evaluation.json`` (``found``), in the table's order."""
    return [
        _accuracy(metrics, threshold),
        _champion(comparison, gate),
        _class_floor(found, gate),
        _at_most("calibration", "calibration error", metrics.get("calibration_error"), gate.max_calibration_error),
        _at_most("prediction_time", "prediction time", metrics.get("latency_ms"), gate.max_latency_ms, " ms"),
        _at_most("model_size", "model size", metrics.get("model_mb"), gate.max_model_mb, " MB"),
        _at_most("reload", "difference after reloading", metrics.get("reload_difference"), gate.max_reload_difference),
    ]


def format_reason(rules: Sequence[Rule]) -> str:
    """What was decided and why: what failed comes first; accuracy and champion are always named."""
    failed = [rule.clause for rule in rules if not rule.passed]
    named = [rule.clause for rule in rules if rule.passed and rule.rule in ALWAYS_NAMED]
    return f"{'rejected' if failed else 'promoted'}: {'; '.join(failed + named)}"


def validate_class_floors(gate: Gate, class_names: Sequence[Any]) -> None:
    """Raise ConfigError where a class has a floor that the data do not have."""
    if strangers := sorted(set(gate.min_recalls) - set(map(int, class_names))):
        raise ConfigError(f"gate.min_recall_by_class has a floor for {', '.join(map(str, strangers))}; the classes are "
                          f"{', '.join(map(str, class_names))}. Remove it.")


def _accuracy(metrics: Metrics, threshold: float) -> Rule:
    value = finite_number(metrics.get("val_accuracy"))
    if value is None:
        return _unmeasured("accuracy", "accuracy", threshold)
    passed = value >= threshold
    own, stored = _told_apart(value, threshold)
    return Rule("accuracy", value, threshold, passed,
                f"accuracy {own} {'reaches' if passed else 'is below'} the stored {stored}")


def _champion(comparison: ChampionComparison | None, gate: Gate) -> Rule:
    if gate.champion_rule == "off":
        return Rule("champion", None, None, True, "not compared with the champion", "gate.champion_rule is off")
    if comparison is None:
        return Rule("champion", None, gate.significance, True, "there is no champion yet")
    if not comparison.paired.num_images:
        return Rule("champion", None, gate.significance, False, "nothing to compare with the champion on",
                    _nothing(comparison))
    paired = comparison.paired
    if gate.champion_rule == "not_worse":
        p_value, word = paired.p_worse, "worse"
    else:
        p_value, word = paired.p_better, "better"
    shown = p_value <= gate.significance
    clause = f"{'' if shown else 'not '}significantly {word} than the champion (p = {p_value:.2g})"
    return Rule("champion", p_value, gate.significance, shown == (word == "better"), clause,
                _answers(comparison, gate.significance))


def _nothing(comparison: ChampionComparison) -> str:
    if not comparison.num_same_members:
        return (f"all {comparison.num_trained_on} images trained it. Take its fold, or a holdout, or set "
                "gate.champion_rule=off")
    known = f"; {comparison.num_trained_on} more trained the champion" if comparison.num_trained_on else ""
    return (f"{comparison.num_same_members} images are answered for both by the same members{known}. Join other members, of "
            "its holdout or its fold, or set gate.champion_rule=off")


def _answers(comparison: ChampionComparison, level: float) -> str:
    paired = comparison.paired
    low, high = (f"{100 * end:+.1f}%" for end in paired.interval())
    smallest = paired.minimum_detectable_difference(level)
    known = f"; {comparison.num_trained_on} more trained the champion" if comparison.num_trained_on else ""
    if comparison.num_same_members:
        known += f"; {comparison.num_same_members} more are left out, as the same members answer them for both"
    could = "so few could show no difference" if smallest is None else f"they could show one of {100 * smallest:.1f}%"
    return (f"of {paired.num_images} images {paired.gained} are right only by the candidate, {paired.lost} only by the "
            f"champion, a difference of {100 * paired.difference:+.1f}% (95%: {low} to {high}); "
            f"{could}{known}")


def _class_floor(found: Mapping[str, Any], gate: Gate) -> Rule:
    if not found.get("recall"):
        return _unmeasured("class_floor", "recall of each class", gate.min_recall)
    rows = []
    for name, value, counts in zip(found["class_names"], found["recall"], found["confusion"], strict=True):
        floor = gate.min_recalls.get(int(name), gate.min_recall)
        # a class without images has no recall, whatever number stands there
        rows.append((finite_number(value) if sum(counts) else None, floor, name))
    low = sorted((row for row in rows if row[0] is None or row[0] < row[1]), key=_margin)
    value, floor, name = min(rows, key=_margin)
    if not low:
        return Rule("class_floor", value, floor, True, "no class is below its floor",
                    f"the nearest is class {name} with recall {value:.4f}, floor {floor:.4f}")
    more = f" and {len(low) - MAX_CLASSES} more" if len(low) > MAX_CLASSES else ""
    return Rule("class_floor", value, floor, False, ", ".join(map(_below, low[:MAX_CLASSES])) + more)


def _margin(row: tuple[float | None, float, Any]) -> float:
    return -math.inf if row[0] is None else row[0] - row[1]


def _below(row: tuple[float | None, float, Any]) -> str:
    if row[0] is None:
        return f"class {row[2]} has no validation image"
    own, floor = _told_apart(row[0], row[1])
    return f"class {row[2]} has recall {own}, below its floor {floor}"


def _at_most(rule: str, words: str, found: float | int | str | list[int] | None, limit: float, unit: str = "") -> Rule:
    value = finite_number(found)
    if value is None:
        return _unmeasured(rule, words, limit)
    passed = value <= limit
    own, most = _told_apart(value, limit, "g")
    verb = "is within" if passed else "is above"
    return Rule(rule, value, limit, passed, f"{words} {own}{unit} {verb} {most}{unit}")


def _unmeasured(rule: str, words: str, limit: float) -> Rule:
    return Rule(rule, None, limit, False, f"{words} was not measured ({MEASURE})")


def _told_apart(value: float, limit: float, form: str = "f") -> tuple[str, str]:
    """Both with four decimals (form g: digits), or as many more as show that they differ."""
    for digits in range(4, 17):
        texts = f"{value:.{digits}{form}}", f"{limit:.{digits}{form}}"
        if texts[0] != texts[1] or value == limit:
            return texts
    return repr(value), repr(limit)
