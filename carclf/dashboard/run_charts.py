"""The charts of one run and of two compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from carclf.dashboard.charts import (
    BLUE,
    MUTED,
    ORANGE,
    RED,
    Chart,
    Spec,
    Values,
    axis,
    color_scale,
    format_number,
    spec,
)

Point = Mapping[str, Any]
MAX_BARS = 60  # classes that a chart of bars can still show
# Of a training: a figure, its title, what belongs to it and how that is called, the axis' format.
FIGURES: tuple[tuple[str, str, dict[str, str], str], ...] = (
    ("loss", "Loss", {"loss": "training", "val_loss": "validation"}, ".3~g"),
    ("accuracy", "Accuracy", {"accuracy": "training", "val_accuracy": "validation"}, ".3~g"),
    ("learning_rate", "Learning rate", {"learning_rate": "learning rate"}, ".1e"),
    ("images_per_second", "Images a second", {"images_per_second": "images a second"}, "~s"),
    ("data_wait_fraction", "Waiting for data", {"data_wait_fraction": "share of the time"}, ".2~%"),
)


def curves(name: str, points: Sequence[Point], x: str, x_title: str) -> list[Chart]:
    """The curves of a training, by the points' ``x``; no chart of what was never told."""
    found = [_curve(f"{name}-{figure}", title, series, form, points, (x, x_title))
             for figure, title, series, form in FIGURES]
    return [chart for chart in found if chart.rows]


def _curve(
    name: str, title: str, series: Mapping[str, str], form: str, points: Sequence[Point], at: tuple[str, str]
) -> Chart:
    x, x_title = at
    values: Values = [{"x": point[x], "kind": kind, "value": point[key]}
                      for point in points for key, kind in series.items() if point.get(key) is not None]
    layer: Spec = {
        "mark": {"type": "line", "point": {"size": 22}, "strokeWidth": 2},
        "encoding": {
            "x": axis("x", x_title, axis={"tickMinStep": 1, "format": "~s"}),
            "y": axis("value", axis={"format": form, "tickCount": 5}),
            "color": color_scale("kind", dict(zip(series.values(), (BLUE, ORANGE), strict=False))),
            "tooltip": [{"field": "x", "title": x_title, "format": ",.6~g"}, {"field": "kind", "title": title},
                        {"field": "value", "title": "value", "format": ".4~g"}],
        },
    }
    by_x: dict[float, dict[str, float]] = {}
    for value in values:
        by_x.setdefault(value["x"], {})[value["kind"]] = value["value"]
    table = [[format_number(at, ".6g"), *(format_number(found.get(kind)) for kind in series.values())]
             for at, found in sorted(by_x.items())]
    return Chart(name, title, spec(title, values, [layer], 190), _said(values), [x_title, *series.values()], table)


def _said(values: Values) -> str:
    said = []
    for kind in dict.fromkeys(value["kind"] for value in values):
        own = [value["value"] for value in values if value["kind"] == kind]
        said.append(f"{kind} {format_number(own[0])} → {format_number(own[-1])} (lowest {format_number(min(own))}, highest "
                    f"{format_number(max(own))})")
    return "; ".join(said)


def stage_times(stages: Sequence[Mapping[str, Any]]) -> Chart:
    """How long each stage took, of a run's ``stages``."""
    done = [stage for stage in stages if stage["seconds"] is not None]
    values: Values = [{"stage": stage["name"], "seconds": stage["seconds"],
                       "how": "reused" if stage["reused"] else "made"} for stage in done]
    layer: Spec = {
        "mark": {"type": "bar", "cornerRadiusEnd": 3, "minBandSize": 8},
        "encoding": {
            "y": {"field": "stage", "type": "nominal", "sort": None, "title": None,
                  "axis": {"domain": False, "ticks": False}},
            "x": {"field": "seconds", "type": "quantitative", "title": "seconds"},
            "color": color_scale("how", {"made": BLUE, "reused": MUTED}),
            "tooltip": [{"field": "stage"}, {"field": "seconds", "format": ".2f"}, {"field": "how"}],
        },
    }
    said = "No stage is done yet."
    if done:
        longest = max(done, key=lambda stage: stage["seconds"])
        said = (f"{len(done)} stages took {sum(stage['seconds'] for stage in done):.0f} s; the longest is "
                f"{longest['name']} with {longest['seconds']:.0f} s.")
    return Chart("stage-times", "Time of each stage", spec("Time of each stage", values, [layer], {"step": 22}), said,
                 ["stage", "seconds", "how"], [[row["stage"], f"{row['seconds']:.2f}", row["how"]] for row in values])


def recalls(classes: Sequence[Mapping[str, Any]]) -> Chart:
    """Each class's recall with its interval: ``label``, ``num``, ``recall``, ``low``, ``high``; the weakest first."""
    values: Values = [{"label": str(row["label"]), **{name: row[name] for name in ("num_images", "recall", "low", "high")}}
                      for row in classes[:MAX_BARS]]
    y: Spec = {"field": "label", "type": "nominal", "sort": None, "title": "class"}
    tooltip = [{"field": "label", "title": "class"}, {"field": "num_images", "title": "images"},
               *({"field": name, "format": ".3f"} for name in ("recall", "low", "high"))]
    share: Spec = {"scale": {"domain": [0, 1]}}
    layers: list[Spec] = [
        {"mark": {"type": "bar", "color": BLUE, "opacity": 0.55, "cornerRadiusEnd": 3},
         "encoding": {"y": y, "x": axis("recall", "recall") | share, "tooltip": tooltip}},
        {"mark": {"type": "rule", "color": "var(--text)", "strokeWidth": 1.5},
         "encoding": {"y": y, "x": axis("low") | share, "x2": {"field": "high"}, "tooltip": tooltip}},
    ]
    said = "Nothing was measured."
    if classes:
        weak, strong = classes[0], classes[-1]
        said = (f"The weakest class is {weak['label']} with recall {weak['recall']:.3f} (95%: {weak['low']:.3f} to "
                f"{weak['high']:.3f}, {weak['num_images']} images), the strongest {strong['label']} with "
                f"{strong['recall']:.3f}.")
    table = [[str(row["label"]), str(row["num_images"]), *(f"{row[name]:.3f}" for name in ("recall", "low", "high")),
              str(row.get("num_predicted", ""))] for row in classes]
    return Chart("recalls", "Recall of each class", spec("Recall of each class", values, layers, {"step": 18}), said,
                 ["class", "images", "recall", "from", "to", "named so"], table)


def reliability(bins: Sequence[Mapping[str, Any]]) -> Chart:
    """Accuracy of images of like confidence, with its interval; on the diagonal a model is as right as it says."""
    values: Values = [{name: row[name] for name in ("confidence", "accuracy", "low", "high")} | {
        "num": row["num_images"]} for row in bins]
    share: Spec = {"scale": {"domain": [0, 1]}}
    x, y = axis("confidence", "confidence") | share, axis("accuracy", "accuracy") | share
    tooltip = [{"field": "num", "title": "images"},
               *({"field": name, "format": ".3f"} for name in ("confidence", "accuracy", "low", "high"))]
    ends: Spec = {"values": [{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]}
    layers: list[Spec] = [
        {"data": ends, "mark": {"type": "line", "color": MUTED, "strokeDash": [4, 4], "strokeWidth": 1},
         "encoding": {"x": x, "y": y}},
        {"mark": {"type": "rule", "color": BLUE, "strokeWidth": 2},
         "encoding": {"x": x, "y": axis("low", "accuracy") | share, "y2": {"field": "high"}, "tooltip": tooltip}},
        {"mark": {"type": "circle", "color": BLUE, "size": 60, "opacity": 1},
         "encoding": {"x": x, "y": y, "tooltip": tooltip}},
    ]
    outside = sum(not row["low"] <= row["confidence"] <= row["high"] for row in values)
    said = (f"{len(values)} groups of images of like confidence; in {outside} of them the confidence lies outside of "
            "the accuracy's 95% interval.")
    table = [[f"{row['confidence']:.3f}", str(row["num"]),
              *(f"{row[name]:.3f}" for name in ("accuracy", "low", "high"))] for row in values]
    return Chart("reliability", "Reliability", spec("Reliability", values, layers, 280), said,
                 ["confidence", "images", "accuracy", "from", "to"], table)


def class_differences(classes: Sequence[Mapping[str, Any]]) -> Chart:
    """How much each class's recall differs from run A to run B: ``label``, ``num``, ``a``, ``b``, ``difference``."""
    values: Values = [{"label": str(row["label"]), "kind": "gained" if row["difference"] >= 0 else "lost",
                       **{name: row[name] for name in ("num", "a", "b", "difference")}} for row in classes[:MAX_BARS]]
    layer: Spec = {
        "mark": {"type": "bar", "cornerRadiusEnd": 3},
        "encoding": {
            "y": {"field": "label", "type": "nominal", "sort": None, "title": "class"},
            "x": {"field": "difference", "type": "quantitative", "title": "recall of B less that of A",
                  "axis": {"format": "+.2f", "tickCount": 8}},
            "color": color_scale("kind", {"gained": BLUE, "lost": RED}),
            "tooltip": [{"field": "label", "title": "class"}, {"field": "num", "title": "images"},
                        {"field": "a", "title": "A", "format": ".3f"}, {"field": "b", "title": "B", "format": ".3f"},
                        {"field": "difference", "format": "+.3f"}],
        },
    }
    gained, lost = (sum(row["difference"] * sign > 0 for row in classes) for sign in (1, -1))
    said = f"B recalls {gained} classes better, {lost} worse and {len(classes) - gained - lost} alike."
    table = [[str(row["label"]), str(row["num"]), f"{row['a']:.3f}", f"{row['b']:.3f}", f"{row['difference']:+.3f}"]
             for row in classes]
    return Chart("class-differences", "Difference of each class", spec("Difference of each class", values, [layer],
                 {"step": 18}), said, ["class", "images", "A", "B", "difference"], table)
