"""The page of a decision."""

from typing import Any

from carclf.reports.render import render_template


def render_decision(decision: dict[str, Any]) -> str:
    """The page of a ``decision.json``: its rules, and where there was a champion, both models' answers."""
    return render_template("decision_report.html", decision=decision, paired=decision["paired"])
