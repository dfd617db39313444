"""Tests of the timeline of scores and thresholds."""

import re
from typing import Any

import pytest

from carclf.dashboard.champion_facts import ChampionFacts, ThresholdChange
from carclf.dashboard.charts import render_svg
from carclf.dashboard.timeline import timeline_chart


def row(run: str, day: int, accuracy: float | None, score: float | None = None) -> dict[str, Any]:
    return {"run": run, "created": f"2026-11-{day:02}T00:00:00+00:00", "val_accuracy": accuracy, "metric": "accuracy",
            "val_metric": accuracy, "public_score": score, "decision": "promoted"}


def champion_facts(threshold: float, **thresholds: float) -> ChampionFacts:
    """The threshold and its changes by day: ``start``, ``day_1`` and so on."""
    times = {"start": ""} | {f"day_{day}": f"2026-11-{day:02}T12:00:00+00:00" for day in range(1, 9)}
    changes = tuple(ThresholdChange(time=times[name], threshold=value) for name, value in thresholds.items())
    return ChampionFacts(champion=None, threshold=threshold, thresholds=changes)


def threshold_values(chart: Any) -> list[dict[str, Any]]:
    return chart.spec["layer"][1]["data"]["values"]


def test_the_timeline_is_drawn_with_its_threshold() -> None:
    rows = [row("<i>", 1, 0.7, 0.8), row("b", 4, None, 0.5)]
    svg = render_svg(timeline_chart(rows, champion_facts(0.6, start=0.5, day_2=0.6)))
    assert re.findall(r"<script|\sstyle=|\son\w+=|<b>|<i>|href=", svg) == []
    assert "threshold 0.6" in svg


def test_the_summary_names_the_last_and_the_best_run_and_the_threshold() -> None:
    def named_values(rows: list[dict[str, Any]], champion: ChampionFacts | None) -> list[str]:
        """Return the words that distinguish the values, the numbers, and the runs in parentheses."""
        summary = timeline_chart(rows, champion).summary
        return re.findall(r"last|best|threshold|\d+(?:\.\d+)?|\(\w+\)", summary)

    facts = champion_facts(0.6)
    assert timeline_chart([], facts).summary
    assert named_values([], facts) == []
    assert named_values([row("a", 1, 0.7)], None) == ["0.7000", "(a)"]
    assert named_values([row("a", 1, 0.7), row("b", 2, 0.5)], facts) == [
        "2", "last", "0.5000", "best", "0.7000", "(a)", "1", "threshold", "0.6000"]


def test_the_lowest_loss_is_the_best_and_reaches_the_threshold() -> None:
    rows = [row("a", 1, 0.5) | {"metric": "log_loss", "val_metric": 0.2}, row("b", 2, 0.9),
            row("c", 3, 0.5) | {"metric": "log_loss", "val_metric": 0.4}]
    facts = champion_facts(0.3).model_copy(update={"metric": "log_loss"})
    chart = timeline_chart(rows, facts)
    assert "best 0.2000 (a). 1 reaches the current threshold of 0.3000" in chart.summary
    assert [value["run"] for value in chart.values] == ["a", "c"] and chart.title.startswith("Log loss")


@pytest.mark.parametrize("created", ["garbage", "", None])
def test_a_run_with_an_invalid_time_does_not_change_the_axis(created: str | None) -> None:
    rows = [row("a", 1, 0.7), row("b", 3, 0.5)]
    invalid = row("c", 2, 0.9) | {"created": created}
    assert timeline_chart([*rows, invalid], champion_facts(0.6)) == timeline_chart(rows, champion_facts(0.6))


def test_the_time_axis_is_utc_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    svg = render_svg(timeline_chart([row("a", 1, 0.7), row("b", 2, 0.5)], None))
    assert ">15:00<" in svg and "PM<" not in svg and ">UTC<" in svg


def test_the_threshold_line_starts_with_the_threshold_of_the_first_run() -> None:
    facts = champion_facts(0.8, start=0.5, day_1=0.6, day_3=0.8)
    assert threshold_values(timeline_chart([row("a", 2, 0.7), row("b", 4, 0.9)], facts)) == [
        {"created": "2026-11-02T00:00:00+00:00", "value": 0.6},
        {"created": "2026-11-03T12:00:00+00:00", "value": 0.8},
        {"created": "2026-11-04T00:00:00+00:00", "value": 0.8}]


def test_a_single_run_has_a_threshold_line_too() -> None:
    assert threshold_values(timeline_chart([row("a", 2, 0.7)], champion_facts(0.6, start=0.6))) == [
        {"created": "2026-11-01T12:00:00+00:00", "value": 0.6}, {"created": "2026-11-02T12:00:00+00:00", "value": 0.6}]
