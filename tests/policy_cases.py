"""A policy that limits every setting it can, and a looser value of each, for tests of all ways to loosen it."""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """A limit in the policy, a value that is looser, and one that is allowed."""

    limit: Any
    looser: Any
    allowed: Any


CASES: dict[str, Case] = {
    "data.metric": Case("accuracy", "log_loss", "accuracy"),
    "data.max_missing": Case(0.1, 0.2, 0.0),
    "validation.min_images_per_class": Case(20, 19, 30),
    "validation.max_unusable_fraction": Case(0.05, 0.1, 0.0),
    "validation.max_unreadable_test_fraction": Case(0.01, 0.02, 0.01),
    "audit.enabled": Case(True, False, True),
    "audit.drift_stop": Case(0.3, 0.5, 0.2),
    "gate.threshold": Case(0.9, 0.8999, 0.95),
    "gate.max_log_loss": Case(0.5, 0, 0.4),
    "gate.raise_threshold": Case("worse_bound", "off", "worse_bound"),
    "gate.champion_rule": Case("not_worse", "off", "better"),
    "gate.significance": Case(0.05, 0.001, 0.05),
    "gate.min_recall": Case(0.5, 0.0, 0.9),
    "gate.max_calibration_error": Case(0.1, 1, 0.1),
    "gate.max_latency_ms": Case(200.0, 201, 10),
    "gate.max_model_mb": Case(500, 2000, 500),
    "gate.max_reload_difference": Case(0.01, 0.5, 0),
    "gate.approval": Case("required", "none", "required"),
    "submit.enabled": Case(False, True, False),
    "submit.max_per_day": Case(2, 0, 1),
}
# Settings that would bypass the limit of another one.
IMPLIED_CASES: dict[str, Case] = {
    "audit.drift_warn": Case(0.3, 0.31, 0.01),
    "gate.min_recall_by_class": Case(0.5, "a=0.4,b=0.9", "a=0.5,b=0.9"),
}
LISTS = '[allowed]\nrecipes = ["demo", "cpu*"]\nsources = ["demo-*", "s3://images/*"]\n'


def policy_text(extra: str = LISTS) -> str:
    """Return the policy as TOML."""
    return "[settings]\n" + "".join(f"{name} = {_format(case.limit)}\n" for name, case in CASES.items()) + extra


def form_value(value: Any) -> Any:
    """Return a value as the trigger form sends it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _format(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
