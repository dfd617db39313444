"""Accuracy and public score of all runs over time, with the stored threshold as a line."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from carclf.dashboard.charts import BLUE, ORANGE, RED, Chart, Spec, Values, axis, color_scale, format_number, spec

Row = Mapping[str, Any]
MAX_RUNS = 500  # the newest, that are drawn
KINDS = {"val_accuracy": "validation accuracy", "public_score": "public score"}
TITLE = "Accuracy and public score over time"


def timeline_chart(rows: Sequence[Row], champion: Mapping[str, Any] | None) -> Chart:
    """A point for each run's accuracy and public score; ``champion`` is of ``facts.champion_facts``."""
    known = sorted((row for row in rows if any(row[name] is not None for name in KINDS) and _is_time(row["created"])),
                   key=lambda row: row["created"])[-MAX_RUNS:]
    values: Values = [{"run": row["run"], "created": row["created"], "kind": kind, "value": row[name],
                       "decision": row["decision"] or "none yet", "begun": row["created"][:16].replace("T", " ")}
                      for row in known for name, kind in KINDS.items() if row[name] is not None]
    threshold = champion["threshold"] if champion else None
    layers = [_points(_span(known))]
    if champion and known:
        layers.append(_steps(_threshold_values(champion, _span(known))))
    table = [[row["run"], row["created"], *(format_number(row[name]) for name in KINDS), row["decision"]]
             for row in reversed(known)]
    return Chart("timeline", TITLE, spec(TITLE, values, layers, 240), _said(known, threshold),
                 ["run", "begun", *KINDS.values(), "decision"], table)


def _is_time(text: str) -> bool:
    """Whether it can stand on the axis: a single wrong one would leave nothing of it."""
    try:
        return bool(datetime.fromisoformat(text))
    except (ValueError, TypeError):
        return False


def _time(span: list[str] | None = None) -> Spec:
    """The axis of time: UTC, as all times of the pages, wherever the browser is."""
    scale: Spec = {"type": "utc"} | ({"domain": span} if span else {})
    ticks: Spec = {"tickCount": 8, "format": {"hours": "%H:%M", "minutes": "%H:%M"}}  # else 14:28 would be 02:28
    return {"field": "created", "type": "temporal", "title": "UTC", "axis": ticks, "scale": scale}


def _span(known: Sequence[Row]) -> list[str]:
    """From the first run to the last; of a single moment a day around it, whose axis would else count milliseconds."""
    moments = [row["created"] for row in known]
    if len(set(moments)) != 1:
        return moments[:1] + moments[-1:]
    moment = datetime.fromisoformat(moments[0])
    return [(moment + timedelta(hours=hours)).isoformat() for hours in (-12, 12)]


def _points(span: list[str]) -> Spec:
    kinds = {"validation accuracy": BLUE, "public score": ORANGE}
    return {
        "mark": {"type": "point", "filled": True, "size": 55, "opacity": 0.8},
        "encoding": {
            "x": _time(span),
            "y": axis("value", axis={"format": ".3~f"}),
            "color": color_scale("kind", kinds),
            "shape": {"field": "kind", "type": "nominal", "scale": {"domain": list(kinds),
                                                                    "range": ["circle", "diamond"]}},
            "tooltip": [{"field": "run"}, {"field": "kind", "title": "figure"},
                        {"field": "value", "format": ".4f"}, {"field": "decision"},
                        {"field": "begun", "title": "begun (UTC)"}],
        },
    }


def _threshold_values(champion: Mapping[str, Any], span: list[str]) -> Values:
    """The threshold from the begin of what is drawn to its end."""
    first, last = span
    changes = [change for change in champion["thresholds"] if change["time"]]
    before = [change["threshold"] for change in changes if change["time"] <= first]
    begin = before[-1] if before else changes[0]["threshold"] if changes else champion["threshold"]
    between = [{"created": change["time"], "value": change["threshold"]} for change in changes
               if first < change["time"] <= last]
    return [{"created": first, "value": begin}, *between, {"created": last, "value": champion["threshold"]}]


def _steps(values: Values) -> Spec:
    at: Spec = {"x": _time(), "y": axis("value")}
    return {
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "line", "interpolate": "step-after", "color": RED, "strokeDash": [5, 4],
                      "strokeWidth": 1.5}, "encoding": at},
            {"mark": {"type": "text", "color": RED, "align": "right", "baseline": "bottom", "dy": -3},
             "transform": [{"window": [{"op": "row_number", "as": "place"}]},
                           {"filter": f"datum.place == {len(values)}"}],
             "encoding": at | {"text": {"value": f"threshold {values[-1]['value']:.4g}"}}},
        ],
    }


def _said(known: Sequence[Row], threshold: float | None) -> str:
    measured = [row for row in known if row["val_accuracy"] is not None]
    if not measured:
        return "No run was measured yet."
    best, last = max(measured, key=lambda row: row["val_accuracy"]), measured[-1]
    if len(measured) == 1:
        return f"One run was measured: accuracy {last['val_accuracy']:.4f} ({last['run']})."
    which = f"the newest {len(measured)}" if len(known) == MAX_RUNS else str(len(measured))
    said = (f"Of {which} runs the last has accuracy {last['val_accuracy']:.4f}, the best "
            f"{best['val_accuracy']:.4f} ({best['run']}).")
    if threshold is None:
        return said
    reach = sum(row["val_accuracy"] >= threshold for row in measured)
    return f"{said} {reach} {'reaches' if reach == 1 else 'reach'} the threshold of now, {threshold:.4f}."
