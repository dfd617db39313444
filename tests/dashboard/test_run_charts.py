"""Tests of the charts of runs: drawings, summaries and tables."""

import re

from carclf.dashboard.charts import render_svg
from carclf.dashboard.comparison_facts import ClassDifference
from carclf.dashboard.run_charts import class_differences, curves, recalls, reliability, stage_times
from carclf.dashboard.run_facts import ClassRecall, ReliabilityBin
from carclf.dashboard.stage_facts import StageFacts
from carclf.metrics import METRICS

ACCURACY = METRICS["accuracy"]
POINTS = [{"epoch": 1, "loss": 2.0, "val_loss": 1.5, "accuracy": 0.5}, {"epoch": 2, "loss": 1.0, "val_loss": None}]
RECALLS = [
    ClassRecall(label="5", num_images=9, recall=0.5, low=0.3, high=0.7, num_predicted=4),
    ClassRecall(label="7", num_images=3, recall=1.0, low=0.4, high=1.0, num_predicted=3),
]
DIFFERENCES = [
    ClassDifference(label="5", num_images=9, a=0.5, b=0.4, difference=-0.1),
    ClassDifference(label="7", num_images=3, a=1.0, b=1.0, difference=0.0),
]
BINS = [ReliabilityBin(confidence=0.5, accuracy=0.4, low=0.3, high=0.6, num_images=4)]


def stage(name: str, seconds: float | None, reused: bool = False) -> StageFacts:
    return StageFacts(name=name, state="done", text="", since="", ended="", seconds=seconds, reused=reused, metrics={},
                      folder="", key="", files={}, command="")


def test_every_chart_is_drawn_in_the_colors_of_the_page_without_script_or_style() -> None:
    charts = [*curves("<i>", POINTS, "epoch", "epoch", ACCURACY), recalls(RECALLS), class_differences(DIFFERENCES),
              reliability(BINS), stage_times([stage("<b>", 3.0)])]
    for chart in charts:
        svg = render_svg(chart)
        assert svg.startswith("<svg ") and "var(--" in svg, chart.name
        assert re.findall(r"<script|\sstyle=|\son\w+=|<b>|<i>|href=", svg) == [], chart.name


def test_a_curve_summarizes_its_series_and_has_a_table_row_per_point() -> None:
    loss, accuracy = curves("x", POINTS, "epoch", "epoch", ACCURACY)
    assert re.findall(r"training|validation|lowest|highest|[\d.]+", loss.summary) == [
        "training", "2", "1", "lowest", "1", "highest", "2",
        "validation", "1.5", "1.5", "lowest", "1.5", "highest", "1.5",
    ]
    assert (loss.columns, loss.rows) == (["epoch", "training", "validation"], [["1", "2", "1.5"], ["2", "1", ""]])
    assert (accuracy.name, accuracy.rows) == ("x-accuracy", [["1", "0.5", ""]])


def test_a_metric_other_than_accuracy_has_a_curve_with_its_direction() -> None:
    points = [{"epoch": 1, "val_accuracy": 0.5, "val_metric": 0.7}]
    accuracy, loss = curves("x", points, "epoch", "epoch", METRICS["log_loss"])
    assert (accuracy.title, loss.title) == ("Accuracy", "Log loss (lower is better)")
    assert [chart.title for chart in curves("x", points, "epoch", "epoch", ACCURACY)] == ["Accuracy"]


def test_metrics_without_values_have_no_chart() -> None:
    assert curves("x", [{"epoch": 1, "loss": None}], "epoch", "epoch", ACCURACY) == []


def test_stage_times_list_finished_stages_with_their_outcome() -> None:
    chart = stage_times([stage("download", 3.0), stage("validate", 1.5, reused=True), stage("split", None)])
    assert chart.rows == [["download", "3.00", "computed"], ["validate", "1.50", "reused"]]
    assert "longest was download" in chart.summary


def test_recalls_name_the_weakest_and_the_strongest_class() -> None:
    chart = recalls(RECALLS)
    assert chart.rows == [["5", "9", "0.500", "0.300", "0.700", "4"], ["7", "3", "1.000", "0.400", "1.000", "3"]]
    assert "weakest class is 5 with recall 0.500" in chart.summary and "strongest is 7" in chart.summary


def test_reliability_counts_the_bins_whose_confidence_is_outside_the_interval() -> None:
    outside = ReliabilityBin(confidence=0.9, accuracy=0.4, low=0.3, high=0.6, num_images=4)
    assert "in 1 of them" in reliability([*BINS, outside]).summary


def test_class_differences_count_gains_and_losses() -> None:
    chart = class_differences(DIFFERENCES)
    assert chart.rows == [["5", "9", "0.500", "0.400", "-0.100"], ["7", "3", "1.000", "1.000", "+0.000"]]
    assert [value["kind"] for value in chart.values] == ["lost", "gained"]
    assert "higher recall for 0 classes, a lower one for 1 and the same for 1" in chart.summary
