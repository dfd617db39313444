"""Metric and public score of all runs over time, and the promotion threshold."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from carclf.dashboard.champion_facts import ChampionFacts
from carclf.dashboard.charts import Chart, Color, Spec, Values, axis, color_scale, layered_spec, tooltip
from carclf.formatting import format_value
from carclf.metrics import METRICS, Metric

Row = Mapping[str, Any]  # of the run index
MAX_RUNS = 500  # the newest runs are drawn
PUBLIC_SCORE = "public score"


def timeline_chart(rows: Sequence[Row], champion: ChampionFacts | None) -> Chart:
    """Return a chart of the runs' scores, with the threshold as a line if there is one.

    Only runs with the metric of the threshold are drawn: other metrics have other scales.
    """
    metric = METRICS[_metric_name(rows, champion)]
    scores = {"val_metric": f"validation {metric.noun}", "public_score": PUBLIC_SCORE}
    colors = dict(zip(scores.values(), (Color.BLUE, Color.ORANGE), strict=True))
    title = f"{metric.title} and public score over time"
    scored = [
        row for row in rows
        if row["metric"] == metric.name and any(row[name] is not None for name in scores) and _is_time(row["created"])
    ]
    scored = sorted(scored, key=lambda row: row["created"])[-MAX_RUNS:]
    layers = [_points(_span(scored), colors, metric)]
    if champion and scored:
        layers.append(_threshold_line(_threshold_values(champion, _span(scored))))
    table = [
        [row["run"], row["created"], *(format_value(row[name]) for name in scores), row["decision"]]
        for row in reversed(scored)
    ]
    values = [
        {"run": row["run"], "created": row["created"], "kind": kind, "value": row[name],
         "decision": row["decision"] or "none yet", "started": row["created"][:16].replace("T", " ")}
        for row in scored
        for name, kind in scores.items()
        if row[name] is not None
    ]
    summary = _summarize(scored, champion.threshold if champion else None, metric)
    spec = layered_spec(title, values, layers, 240)
    return Chart("timeline", title, spec, summary, ["run", "started", *scores.values(), "decision"], table)


def _metric_name(rows: Sequence[Row], champion: ChampionFacts | None) -> str:
    """Return the metric of the threshold, else that of the newest evaluated run; rows are newest first."""
    if champion:
        return champion.metric
    return next((row["metric"] for row in rows if row["val_metric"] is not None), "accuracy")


def _is_time(text: str) -> bool:
    """Return whether this is a valid time. A single invalid time would break the whole axis."""
    try:
        return bool(datetime.fromisoformat(text))
    except (ValueError, TypeError):
        return False


def _time_axis(span: list[str] | None = None) -> Spec:
    """Return an axis in UTC, like all times of the pages, regardless of the browser's time zone."""
    scale: Spec = {"type": "utc"} | ({"domain": span} if span else {})
    ticks: Spec = {"tickCount": 8, "format": {"hours": "%H:%M", "minutes": "%H:%M"}}  # the default is a 12-hour clock
    return {"field": "created", "type": "temporal", "title": "UTC", "axis": ticks, "scale": scale}


def _span(scored: Sequence[Row]) -> list[str]:
    """Return the first and the last time. A single time becomes a day, or the axis would show milliseconds."""
    times = [row["created"] for row in scored]
    if len(set(times)) != 1:
        return times[:1] + times[-1:]
    time = datetime.fromisoformat(times[0])
    return [(time + timedelta(hours=hours)).isoformat() for hours in (-12, 12)]


def _points(span: list[str], colors: Mapping[str, str], metric: Metric) -> Spec:
    shapes = {"domain": list(colors), "range": ["circle", "diamond"]}
    return {
        "mark": {"type": "point", "filled": True, "size": 55, "opacity": 0.8},
        "encoding": {
            "x": _time_axis(span),
            "y": axis("value", None if metric.higher_is_better else "lower is better", axis={"format": ".3~f"}),
            "color": color_scale("kind", colors),
            "shape": {"field": "kind", "type": "nominal", "scale": shapes},
            "tooltip": [{"field": "run"}, {"field": "kind", "title": "metric"}, *tooltip(".4f", "value"),
                        {"field": "decision"}, {"field": "started", "title": "started (UTC)"}],
        },
    }


def _threshold_values(champion: ChampionFacts, span: list[str]) -> Values:
    """Return the threshold at the start and the end of the span and at each change in between."""
    first, last = span
    changes = [change for change in champion.thresholds if change.time]
    earlier = [change.threshold for change in changes if change.time <= first]
    initial = [*earlier[-1:], *(change.threshold for change in changes[:1]), champion.threshold][0]
    between = [{"created": change.time, "value": change.threshold} for change in changes if first < change.time <= last]
    return [{"created": first, "value": initial}, *between, {"created": last, "value": champion.threshold}]


def _threshold_line(values: Values) -> Spec:
    position: Spec = {"x": _time_axis(), "y": axis("value")}
    return {
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "line", "interpolate": "step-after", "color": Color.RED, "strokeDash": [5, 4],
                      "strokeWidth": 1.5}, "encoding": position},
            {"mark": {"type": "text", "color": Color.RED, "align": "right", "baseline": "bottom", "dy": -3},
             "transform": [{"window": [{"op": "row_number", "as": "row_number"}]},
                           {"filter": f"datum.row_number == {len(values)}"}],
             "encoding": position | {"text": {"value": f"threshold {values[-1]['value']:.4g}"}}},
        ],
    }


def _summarize(scored: Sequence[Row], threshold: float | None, metric: Metric) -> str:
    evaluated = [row for row in scored if row["val_metric"] is not None]
    if not evaluated:
        return "No run has been evaluated yet."
    best = max(evaluated, key=lambda row: metric.improvement(row["val_metric"], 0))
    last = evaluated[-1]
    if len(evaluated) == 1:
        return f"One run was evaluated: {metric.noun} {last['val_metric']:.4f} ({last['run']})."
    which = f"the newest {len(evaluated)}" if len(scored) == MAX_RUNS else str(len(evaluated))
    summary = (f"Of {which} runs, the last has {metric.noun} {last['val_metric']:.4f} and the best "
               f"{best['val_metric']:.4f} ({best['run']}).")
    if threshold is None:
        return summary
    num_reached = sum(metric.improvement(row["val_metric"], threshold) >= 0 for row in evaluated)
    verb = "reaches" if num_reached == 1 else "reach"
    return f"{summary} {num_reached} {verb} the current threshold of {threshold:.4f}."
