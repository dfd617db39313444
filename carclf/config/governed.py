"""The settings that a policy can limit, and the direction in which each is stricter."""

from collections.abc import Mapping
from typing import Any

from carclf.config.settings import parse_recalls

AT_LEAST, AT_MOST, EXACTLY = "at least", "at most", "exactly"
FLOORS = "each floor at least"  # a text of floors by class

# A tuple lists the values of a setting, the loosest first. The significance level has no direction: a lower one makes
# it easier to be "not worse" than the champion, and harder to be better. Each metric has thresholds of its own, so a
# policy that limits the threshold should fix the metric too.
GOVERNED: dict[str, str | tuple[Any, ...]] = {
    "data.metric": EXACTLY,
    "data.max_missing": AT_MOST,
    "validation.min_images_per_class": AT_LEAST,
    "validation.max_unusable_fraction": AT_MOST,
    "validation.max_unreadable_test_fraction": AT_MOST,
    "audit.enabled": (False, True),
    "audit.drift_stop": AT_MOST,
    "gate.threshold": AT_LEAST,
    "gate.max_log_loss": AT_MOST,
    "gate.raise_threshold": ("off", "worse_bound"),
    "gate.champion_rule": ("off", "not_worse", "better"),
    "gate.significance": EXACTLY,
    "gate.min_recall": AT_LEAST,
    "gate.max_calibration_error": AT_MOST,
    "gate.max_latency_ms": AT_MOST,
    "gate.max_model_mb": AT_MOST,
    "gate.max_reload_difference": AT_MOST,
    "gate.approval": ("none", "required"),
    "submit.enabled": (True, False),
    "submit.max_per_day": AT_MOST,
}
# For metrics of which higher values are better, and for log loss. A policy that limits only one should fix data.metric.
THRESHOLDS = ("gate.threshold", "gate.max_log_loss")
# Settings that would bypass the limit of another one. They cannot be in a policy, except audit.enabled.
IMPLIED: dict[str, str | tuple[Any, ...]] = {"audit.drift_warn": AT_MOST, "gate.min_recall_by_class": FLOORS}
RULES = GOVERNED | IMPLIED
ZERO_IS_NO_LIMIT = ("gate.max_log_loss", "submit.max_per_day")


def with_implied_limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits with those that follow from them, in the order of the settings."""
    implied: dict[str, Any] = {}
    if "audit.drift_stop" in limits:  # without the audit, drift is not measured; a warning comes before the stop
        implied |= {"audit.enabled": True, "audit.drift_warn": limits["audit.drift_stop"]}
    if "gate.min_recall" in limits:
        implied["gate.min_recall_by_class"] = limits["gate.min_recall"]
    return dict(limits) | implied


def stricter(name: str, value: Any, limit: Any) -> Any:
    """Return a setting's value if the limit allows it, otherwise the loosest value that the limit allows."""
    rule = RULES[name]
    if isinstance(rule, tuple):
        return max(value, limit, key=rule.index)
    if rule == FLOORS:
        return _raise_floors(value, limit)
    if rule == AT_LEAST:
        return max(value, limit)
    if rule == AT_MOST and (value or name not in ZERO_IS_NO_LIMIT):
        return min(value, limit)
    return limit


def allowed_choices(name: str, limit: Any) -> tuple[Any, ...]:
    """Return the values that a limit allows, the loosest first; () if the setting is not a choice."""
    rule = RULES[name]
    return rule[rule.index(limit):] if isinstance(rule, tuple) else ()


def describe_limit(name: str, limit: Any) -> str:
    """Return a limit as text, such as ``at least 0.9``, ``required`` or ``not_worse or better``."""
    if choices := allowed_choices(name, limit):
        return " or ".join(map(format_setting, choices))
    return f"{RULES[name]} {format_setting(limit)}"


def format_setting(value: Any) -> str:
    """Return a value as ``--set`` and the trigger form accept it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _raise_floors(text: str, limit: float) -> str:
    """Return the text of the floors with those below the limit raised to it."""
    floors = parse_recalls(text)
    if all(floor >= limit for floor in floors.values()):
        return text
    return ",".join(f"{name}={_format_floor(max(floor, limit))}" for name, floor in floors.items())


def _format_floor(floor: float) -> str:
    """Return decimals without an exponent, which the setting does not accept."""
    return f"{floor:.12f}".rstrip("0").rstrip(".")
