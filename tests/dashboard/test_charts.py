"""Charts: drawn without scripts or styles of their own, and told in a sentence and a table."""

import re

from carclf.dashboard.charts import render_svg
from carclf.dashboard.run_charts import class_differences, curves, recalls, reliability, stage_times
from carclf.dashboard.timeline import timeline_chart

POINTS = [{"epoch": 1, "loss": 2.0, "val_loss": 1.5, "accuracy": 0.5}, {"epoch": 2, "loss": 1.0, "val_loss": None}]
CLASSES = [{"label": "<b>&\"", "num": 9, "recall": 0.5, "low": 0.3, "high": 0.7, "named": 4, "a": 0.5, "b": 0.4,
            "difference": -0.1}, {"label": 7, "num": 3, "recall": 1.0, "low": 0.4, "high": 1.0, "named": 3, "a": 1.0,
                                  "b": 1.0, "difference": 0.0}]


def row(run: str, day: int, accuracy: float | None, score: float | None = None) -> dict[str, object]:
    return {"run": run, "created": f"2026-11-{day:02}T00:00:00+00:00", "val_accuracy": accuracy, "public_score": score,
            "decision": "promoted"}


def test_every_chart_is_svg_in_the_pages_colours_without_script_or_style():
    bins = [{"confidence": 0.5, "accuracy": 0.4, "low": 0.3, "high": 0.6, "num_images": 4}]
    stages = [{"name": "download", "seconds": 3.0, "reused": False}]
    champion = {"threshold": 0.6, "thresholds": [{"time": "", "threshold": 0.5},
                                                 {"time": "2026-11-02T00:00:00+00:00", "threshold": 0.6}]}
    charts = [*curves("x", POINTS, "epoch", "epoch"), recalls(CLASSES), class_differences(CLASSES), reliability(bins),
              stage_times(stages), timeline_chart([row("<i>", 1, 0.7, 0.8), row("b", 3, None, 0.5)], champion)]
    drawings = [render_svg(chart) for chart in charts]
    for chart, drawing in zip(charts, drawings, strict=True):
        assert drawing.startswith("<svg ") and "var(--" in drawing, chart.name
        assert re.findall(r"<script|\sstyle=|\son\w+=|<b>|<i>|href=", drawing) == [], chart.name
    assert ">&lt;b&gt;&amp;" in drawings[2] and "threshold 0.6" in drawings[-1]


def test_a_curve_says_where_it_begins_and_ends_and_has_a_row_for_each_point():
    loss, accuracy = curves("x", POINTS, "epoch", "epoch")
    assert loss.summary == "training 2 → 1 (lowest 1, highest 2); validation 1.5 → 1.5 (lowest 1.5, highest 1.5)"
    assert (loss.columns, loss.rows) == (["epoch", "training", "validation"], [["1", "2", "1.5"], ["2", "1", ""]])
    assert (accuracy.name, accuracy.rows) == ("x-accuracy", [["1", "0.5", ""]])


def test_no_chart_is_made_of_what_was_never_told():
    assert curves("x", [], "epoch", "epoch") == curves("x", [{"epoch": 1, "loss": None}], "epoch", "epoch") == []


def test_time_and_threshold_are_told_in_words():
    champion = {"threshold": 0.6, "thresholds": []}
    assert timeline_chart([], champion).summary == "No run was measured yet."
    assert timeline_chart([row("a", 1, 0.7)], None).summary == "One run was measured: accuracy 0.7000 (a)."
    assert timeline_chart([row("a", 1, 0.7), row("b", 2, 0.5)], champion).summary == (
        "Of 2 runs the last has accuracy 0.5000, the best 0.7000 (a). 1 reaches the threshold of now, 0.6000.")


def test_a_run_whose_time_is_none_leaves_the_axis_of_the_others_as_it_is():
    champion = {"threshold": 0.6, "thresholds": []}
    usual = [row("a", 1, 0.7), row("b", 3, 0.5)]
    for odd in ("garbage", "", None):
        assert timeline_chart([*usual, row("c", 2, 0.9) | {"created": odd}], champion) == timeline_chart(usual, champion)


def test_the_axis_of_time_is_utc_wherever_it_is_drawn(monkeypatch):
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    drawing = render_svg(timeline_chart([row("a", 1, 0.7), row("b", 2, 0.5)], None))
    assert ">15:00<" in drawing and "PM<" not in drawing and ">UTC<" in drawing


def test_the_threshold_over_time_begins_with_what_held_then():
    champion = {"threshold": 0.8, "thresholds": [
        {"time": "", "threshold": 0.5}, {"time": "2026-11-01T12:00:00+00:00", "threshold": 0.6},
        {"time": "2026-11-03T00:00:00+00:00", "threshold": 0.8}]}
    spec = timeline_chart([row("a", 2, 0.7), row("b", 4, 0.9)], champion).spec
    assert spec["layer"][1]["data"]["values"] == [
        {"created": "2026-11-02T00:00:00+00:00", "value": 0.6}, {"created": "2026-11-03T00:00:00+00:00", "value": 0.8},
        {"created": "2026-11-04T00:00:00+00:00", "value": 0.8}]


def test_the_threshold_is_a_line_beside_a_single_run_too():
    spec = timeline_chart([row("a", 2, 0.7)], {"threshold": 0.6, "thresholds": [{"time": "", "threshold": 0.6}]}).spec
    assert spec["layer"][1]["data"]["values"] == [{"created": "2026-11-01T12:00:00+00:00", "value": 0.6},
                                                  {"created": "2026-11-02T12:00:00+00:00", "value": 0.6}]
