"""The charts of one run and of two compared runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from carclf.dashboard.charts import Chart, Color, Spec, Values, axis, color_scale, format_cell, layered_spec, tooltip
from carclf.dashboard.comparison_facts import ClassDifference
from carclf.dashboard.run_facts import ClassRecall, ReliabilityBin
from carclf.dashboard.stage_facts import StageFacts
from carclf.formatting import format_count, format_value, shorten
from carclf.metrics import Metric

Point = Mapping[str, Any]
SERIES_COLORS = (Color.BLUE, Color.ORANGE)
MAX_BARS = 30  # classes that fit into a bar chart
UNIT_INTERVAL: Spec = {"scale": {"domain": [0, 1]}}
CLASS_AXIS: Spec = {"field": "label", "type": "nominal", "sort": None, "title": "class",
                    "axis": {"labelLimit": 200}}  # pixels; a longer name is cut, and whole in the tooltip
CLASS_TOOLTIP: list[Spec] = [{"field": "label", "title": "class"}, {"field": "num_images", "title": "images"}]


@dataclass(frozen=True)
class Curve:
    """A chart of training: the metrics that it draws with their labels, and the format of its axis."""

    name: str
    title: str
    series: Mapping[str, str]
    form: str


CURVES = (
    Curve("loss", "Loss", {"loss": "training", "val_loss": "validation"}, ".3~g"),
    Curve("accuracy", "Accuracy", {"accuracy": "training", "val_accuracy": "validation"}, ".3~g"),
    Curve("learning_rate", "Learning rate", {"learning_rate": "learning rate"}, ".1e"),
    Curve("images_per_second", "Images per second", {"images_per_second": "images per second"}, "~s"),
    Curve("data_wait_fraction", "Waiting for data", {"data_wait_fraction": "fraction of the time"}, ".2~%"),
)


def curves(name: str, points: Sequence[Point], x: str, x_title: str, metric: Metric) -> list[Chart]:
    """Return the training curves over the points' field ``x``; metrics without values have no curve.

    The metric that judges the model has its own curve unless it is accuracy.
    """
    charts = []
    title = metric.label[0].upper() + metric.label[1:]
    of_metric = [] if metric.name == "accuracy" else [Curve("metric", title, {"val_metric": "validation"}, ".3~g")]
    for curve in (*CURVES[:2], *of_metric, *CURVES[2:]):
        values: Values = [
            {"x": point[x], "kind": kind, "value": point[metric]}
            for point in points
            for metric, kind in curve.series.items()
            if point.get(metric) is not None
        ]
        if values:
            charts.append(_curve_chart(f"{name}-{curve.name}", curve, values, x_title))
    return charts


def _series_colors(kinds: Sequence[str]) -> Spec:
    if len(kinds) > len(SERIES_COLORS):
        return {"field": "kind", "type": "nominal", "scale": {"domain": list(kinds), "scheme": "tableau10"},
                "legend": {"columns": 5}}
    return color_scale("kind", dict(zip(kinds, SERIES_COLORS, strict=False)))


def _curve_chart(name: str, curve: Curve, values: Values, x_title: str) -> Chart:
    layer: Spec = {
        "mark": {"type": "line", "point": {"size": 22}, "strokeWidth": 2},
        "encoding": {
            "x": axis("x", x_title, axis={"tickMinStep": 1, "format": "~s"}),
            "y": axis("value", axis={"format": curve.form, "tickCount": 5}),
            "color": _series_colors(list(curve.series.values())),
            "tooltip": [{"field": "x", "title": x_title, "format": ",.6~g"}, {"field": "kind", "title": curve.title},
                        {"field": "value", "title": "value", "format": ".4~g"}],
        },
    }
    by_x: dict[float, dict[str, float]] = {}
    for value in values:
        by_x.setdefault(value["x"], {})[value["kind"]] = value["value"]
    rows = [
        [format_cell(x, ".6g"), *(format_value(row.get(kind)) for kind in curve.series.values())]
        for x, row in sorted(by_x.items())
    ]
    spec = layered_spec(curve.title, values, [layer], 190)
    return Chart(name, curve.title, spec, _summarize_curve(values), [x_title, *curve.series.values()], rows)


def overlaid_curves(epochs_by_run: Mapping[str, Sequence[Point]], metric: Metric) -> list[Chart]:
    """Return the curves of fine-tuning of several runs in one chart for each value: metric and losses."""
    chosen = [Curve("val_metric", f"Validation {metric.label}", {"val_metric": ""}, ".3~g"),
              Curve("val_loss", "Validation loss", {"val_loss": ""}, ".3~g"),
              Curve("loss", "Training loss", {"loss": ""}, ".3~g")]
    charts = []
    for curve in chosen:
        series = {run: run for run, epochs in epochs_by_run.items() if any(point.get(curve.name) is not None
                                                                           for point in epochs)}
        values: Values = [{"x": point["epoch"], "kind": run, "value": point[curve.name]}
                          for run in series for point in epochs_by_run[run] if point.get(curve.name) is not None]
        if values:
            charts.append(_curve_chart(f"overlaid-{curve.name}", replace(curve, series=series), values, "epoch"))
    return charts


def _summarize_curve(values: Values) -> str:
    by_kind: dict[str, list[float]] = {}
    for value in values:
        by_kind.setdefault(value["kind"], []).append(value["value"])
    return "; ".join(
        f"{kind} {format_value(series[0])} → {format_value(series[-1])} (lowest {format_value(min(series))}, "
        f"highest {format_value(max(series))})"
        for kind, series in by_kind.items()
    )


def stage_times(stages: Sequence[StageFacts]) -> Chart:
    """Return the duration of each finished stage."""
    title = "Time of each stage"
    values: Values = [
        {"stage": stage.name, "seconds": stage.seconds, "outcome": "reused" if stage.reused else "computed"}
        for stage in stages
        if stage.seconds is not None
    ]
    layer: Spec = {
        "mark": {"type": "bar", "cornerRadiusEnd": 3, "minBandSize": 8},
        "encoding": {
            "y": {"field": "stage", "type": "nominal", "sort": None, "title": None,
                  "axis": {"domain": False, "ticks": False}},
            "x": {"field": "seconds", "type": "quantitative", "title": "seconds"},
            "color": color_scale("outcome", {"computed": Color.BLUE, "reused": Color.MUTED}),
            "tooltip": [{"field": "stage"}, *tooltip(".2f", "seconds"), {"field": "outcome"}],
        },
    }
    summary = "No stage has finished yet."
    if values:
        longest = max(values, key=lambda value: float(value["seconds"]))
        summary = (f"{format_count(len(values), 'stage')} took {sum(value['seconds'] for value in values):.0f} s; the "
                   f"longest was {longest['stage']} with {longest['seconds']:.0f} s.")
    rows = [[value["stage"], f"{value['seconds']:.2f}", value["outcome"]] for value in values]
    spec = layered_spec(title, values, [layer], {"step": 22})
    return Chart("stage-times", title, spec, summary, ["stage", "seconds", "outcome"], rows)


def recalls(classes: Sequence[ClassRecall]) -> Chart:
    """Return the recall of each class with its 95% interval, in the order given: the weakest class first."""
    title = "Recall of each class"
    values = [row.model_dump() for row in classes[:MAX_BARS]]
    lines = [*CLASS_TOOLTIP, *tooltip(".3f", "recall", "low", "high")]
    layers: list[Spec] = [
        {"mark": {"type": "bar", "color": Color.BLUE, "opacity": 0.55, "cornerRadiusEnd": 3},
         "encoding": {"y": CLASS_AXIS, "x": axis("recall", "recall") | UNIT_INTERVAL, "tooltip": lines}},
        {"mark": {"type": "rule", "color": Color.TEXT, "strokeWidth": 1.5},
         "encoding": {"y": CLASS_AXIS, "x": axis("low") | UNIT_INTERVAL, "x2": {"field": "high"}, "tooltip": lines}},
    ]
    summary = "No class has validation images."
    if classes:
        weakest, strongest = classes[0], classes[-1]
        summary = (f"The weakest class is {shorten(weakest.label)} with recall {weakest.recall:.3f} (95%: "
                   f"{weakest.low:.3f} to {weakest.high:.3f}, {format_count(weakest.num_images, 'image')}), the "
                   f"strongest is {shorten(strongest.label)} with {strongest.recall:.3f}.")
    rows = [
        [row.label, str(row.num_images), *(f"{value:.3f}" for value in (row.recall, row.low, row.high)),
         str(row.num_predicted)]
        for row in classes
    ]
    spec = layered_spec(title, values, layers, {"step": 18})
    return Chart("recalls", title, spec, summary, ["class", "images", "recall", "low", "high", "predicted"], rows)


def reliability(bins: Sequence[ReliabilityBin]) -> Chart:
    """Return accuracy over confidence; the bins of a well calibrated model are on the diagonal."""
    values = [row.model_dump() for row in bins]
    x = axis("confidence", "confidence") | UNIT_INTERVAL
    y = axis("accuracy", "accuracy") | UNIT_INTERVAL
    lines = [CLASS_TOOLTIP[1], *tooltip(".3f", "confidence", "accuracy", "low", "high")]
    diagonal: Spec = {"values": [{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]}
    layers: list[Spec] = [
        {"data": diagonal, "mark": {"type": "line", "color": Color.MUTED, "strokeDash": [4, 4], "strokeWidth": 1},
         "encoding": {"x": x, "y": y}},
        {"mark": {"type": "rule", "color": Color.BLUE, "strokeWidth": 2},
         "encoding": {"x": x, "y": axis("low", "accuracy") | UNIT_INTERVAL, "y2": {"field": "high"}, "tooltip": lines}},
        {"mark": {"type": "circle", "color": Color.BLUE, "size": 60, "opacity": 1},
         "encoding": {"x": x, "y": y, "tooltip": lines}},
    ]
    num_outside = sum(not row.low <= row.confidence <= row.high for row in bins)
    summary = (f"The images are grouped into {len(bins)} bins by confidence; in {num_outside} of them the confidence "
               "is outside the 95% interval of the accuracy.")
    rows = [
        [f"{row.confidence:.3f}", str(row.num_images), *(f"{value:.3f}" for value in (row.accuracy, row.low, row.high))]
        for row in bins
    ]
    spec = layered_spec("Reliability", values, layers, 280)
    return Chart("reliability", "Reliability", spec, summary, ["confidence", "images", "accuracy", "low", "high"], rows)


def class_differences(classes: Sequence[ClassDifference]) -> Chart:
    """Return the recall difference of each class between run A and run B, in the order given."""
    title = "Recall difference of each class"
    values: Values = [
        row.model_dump() | {"kind": "gained" if row.difference >= 0 else "lost"}
        for row in classes[:MAX_BARS]
    ]
    layer: Spec = {
        "mark": {"type": "bar", "cornerRadiusEnd": 3},
        "encoding": {
            "y": CLASS_AXIS,
            "x": {"field": "difference", "type": "quantitative", "title": "recall of B minus recall of A",
                  "axis": {"format": "+.2f", "tickCount": 8}},
            "color": color_scale("kind", {"gained": Color.BLUE, "lost": Color.RED}),
            "tooltip": [*CLASS_TOOLTIP, {"field": "a", "title": "A", "format": ".3f"},
                        {"field": "b", "title": "B", "format": ".3f"}, *tooltip("+.3f", "difference")],
        },
    }
    num_gained = sum(row.difference > 0 for row in classes)
    num_lost = sum(row.difference < 0 for row in classes)
    summary = (f"Compared with A, B has a higher recall for {format_count(num_gained, 'class', 'classes')}, a lower "
               f"one for {num_lost} and the same for {len(classes) - num_gained - num_lost}.")
    rows = [
        [row.label, str(row.num_images), f"{row.a:.3f}", f"{row.b:.3f}", f"{row.difference:+.3f}"]
        for row in classes
    ]
    spec = layered_spec(title, values, [layer], {"step": 18})
    return Chart("class-differences", title, spec, summary, ["class", "images", "A", "B", "difference"], rows)
