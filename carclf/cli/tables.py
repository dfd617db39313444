"""Champions, runs and comparisons as tables of plain text."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Artifact, Decision, Evaluation, Model
from carclf.champion_history import HOLDOUT_FIELDS, Event, State, describe_holdout, model_summary, promotions
from carclf.formatting import format_count, format_value, printable
from carclf.metrics import METRICS
from carclf.runs.index import Row
from carclf.services.storage import Store

if TYPE_CHECKING:
    from carclf.dashboard.comparison_facts import RunComparison
    from carclf.dashboard.run_facts import RunFacts
    from carclf.dashboard.stage_facts import StageFacts

MAX_ROWS = 20  # in each table of a comparison


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns; an empty column is left out."""
    rows = [[printable(cell) for cell in row] for row in rows]  # names and reasons may contain control characters
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width).rstrip() for row in rows
    ]


def _four_decimals(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else format_value(value)


def _score_header(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the titles of ``_score_cells``."""
    names = {row["metric"] for row in rows if row["val_metric"] is not None} or {"accuracy"}
    return METRICS[min(names)].noun if len(names) == 1 else "metric", "95%", "public"


def _score_cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    is_known = row["val_metric_low"] is not None
    interval = f"{row['val_metric_low']:.4f}-{row['val_metric_high']:.4f}" if is_known else ""
    return _four_decimals(row["val_metric"]), interval, _four_decimals(row["public_score"])


def champion_rows(store: Store, state: State) -> list[dict[str, Any]]:
    """Return all promotions, oldest first, with metrics, public score, and a flag for the current champion."""
    return [_champion_row(store, state, event) for event in promotions(state)]


def _champion_row(store: Store, state: State, event: Event) -> dict[str, Any]:
    evaluation = Evaluation.find(store, event["evaluation"]) if event.get("evaluation") else None
    summary = model_summary(state, event, evaluation)
    return summary | {
        "rank": "" if summary["rank"] is None else summary["rank"],
        "time": event["time"], "by": event.get("approved_by", ""),
        "override": event.get("override", ""), "rejection": event.get("rejection", ""),
        "champion": (state["champion"] or {}).get("model") == event["model"],
    }


def history_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of ``champion_rows``, with a star for the champion."""
    table = [("", "model", "run", *_score_header(rows), "rank", "when", "by", "", "")]
    for row in rows:
        override = f"override: {row['override']}" if row["override"] else ""
        holdout = "" if row["holdout_accuracy"] is None else f"test images: {describe_holdout(row)}"
        table.append((
            "*" if row["champion"] else "", row["model"], row["run"], *_score_cells(row),
            str(row["rank"]), row["time"], row["by"], holdout, override,
        ))
    return format_table(table)


def champion_details(store: Store, state: State, event: Event) -> dict[str, Any]:
    """Return a row of ``champion_rows`` with its decision, all metrics, the URLs of its files, and its events."""
    kinds: dict[str, type[Artifact]] = {"model": Model, "evaluation": Evaluation, "decision": Decision}
    artifacts = {name: kind.find(store, event[name]) for name, kind in kinds.items() if event.get(name)}
    decision = artifacts.get("decision")
    evaluation = artifacts.get("evaluation")
    rules = json.loads(decision.path(store, "decision.json").read_text())["rules"] if decision else []
    row = _champion_row(store, state, event)
    holdout = {name: row[name] for name in HOLDOUT_FIELDS if row[name] is not None}
    return row | {
        "reason": decision.metric("reason") if decision else None, "rules": rules,
        "metrics": (evaluation.metrics if evaluation else {}) | holdout,
        "files": {
            name: artifact and {file_name: f"{store.url}/{file.key}" for file_name, file in artifact.files.items()}
            for name, artifact in artifacts.items()
        },
        "events": [other for other in state["history"] if other.get("model") == event["model"]],
    }


def details_table(details: Mapping[str, Any]) -> list[str]:
    """Format ``champion_details`` as lines of text."""
    champion = ", the champion" if details["champion"] else ""
    rules = [
        (row["name"], format_value(row["value"]), format_value(row["limit"]), _describe_rule(row),
         ": ".join(filter(None, (row["summary"], row["detail"]))))
        for row in details["rules"]
    ]
    metrics = [(name, format_value(value)) for name, value in details["metrics"].items()]
    files: list[str] = []
    for name, urls in details["files"].items():
        files += [f"{name}: missing from the store"] if urls is None else urls.values()
    lines = [
        f"{details['model']} of run {details['run'] or 'unknown'}{champion}",
        details["reason"] or "the decision is missing from the store",
        "", *format_table([("rule", "value", "limit", "passed", ""), *rules]),
        "", *format_table(metrics),
        "", *files,
        "", *(_describe_event(event) for event in details["events"]),
    ]
    return [printable(line) for line in lines]


def _describe_rule(rule: Mapping[str, Any]) -> str:
    if not rule.get("applied", True):
        return "not applied"
    return "yes" if rule["passed"] else "NO"


def event_table(events: Sequence[Event]) -> list[str]:
    """Return a table of events of the champion's history: when, what, who, details, and the artifacts as evidence."""
    header = ("when", "event", "model", "run", "by", "details", "evidence")
    return format_table([header, *(
        (event["time"], event["action"].replace("_", " "), event.get("model", ""), event.get("run", ""),
         _actor(event), ", ".join(_event_details(event)), ", ".join(_evidence(event)))
        for event in events)])


def _describe_event(event: Event) -> str:
    by = [f"by {actor}"] if (actor := _actor(event)) else []
    return ", ".join([f"{event['time']}  {event['action'].replace('_', ' ')}", *by, *_event_details(event)])


def _actor(event: Event) -> str:
    return event.get("approved_by") or event.get("by") or ""


def _event_details(event: Event) -> list[str]:
    if event["action"] == "measured":
        return [f"on labeled test images: {describe_holdout(event)}"]
    if event["action"] == "scored":
        rank = [f"rank {event['rank']}"] if event["rank"] != "" else []
        return [f"public score {event['public_score']}", *rank, f"submission {event['ref']}"]
    noun, threshold = METRICS[event.get("metric", "accuracy")].noun, event.get("threshold")
    fields = {
        noun: _four_decimals(event.get("val_metric")),
        "threshold": "" if threshold is None else f"{threshold:.4f} ({noun})",
        "before": _four_decimals(event.get("previous_threshold")),
        "replaces": event.get("previous_model"),
        "note:": event.get("note"),
        "override:": event.get("override"),
        "as": event.get("refit"),
    }
    return [f"{word} {value}" for word, value in fields.items() if value]


def _evidence(event: Event) -> list[str]:
    folders = {"decision": "decisions", "evaluation": "evaluations", "holdout_evaluation": "evaluations"}
    return [f"{folder}/{event[name]}" for name, folder in folders.items() if event.get(name)]


def runs_table(rows: Sequence[Row]) -> list[str]:
    """Return a table of the index's rows, with a star for the champion's run."""
    table = [("", "run", "recipe", "created", "state", "stage", *_score_header(rows), "decision", "minutes", "GPU")]
    for row in rows:
        created = row["created"][: len("2026-01-31T12:00")]
        gpu_minutes = f"{row['gpu_minutes']:.1f}" if row["gpu_minutes"] else ""
        table.append((
            "*" if row["champion"] else "", row["run"], row["recipe"], created, row["state"], row["stage"],
            *_score_cells(row), row["decision"], f"{row['minutes']:.1f}", gpu_minutes,
        ))
    return format_table(table)


def run_lines(facts: "RunFacts") -> list[str]:
    """Format the facts of a run as lines of text."""
    header = facts.header
    row = facts.row
    champion = ", the champion" if row["champion"] else ""
    settings = [(item.name, str(item.value), f"(recipe: {item.default})") for item in header.settings]
    problems = [f"{problem.section}: {problem.text}" for problem in facts.problems]
    decision = facts.decision
    lines = [
        f"{facts.run}, recipe {header.recipe}, started {header.created}{champion}",
        f"{row['state']} at {row['stage']}" if row["stage"] else row["state"],
        *([f"{decision.decision}: {decision.explanation}"] if decision else []),
        *([decision.response] if decision and decision.response else []),
        "", *format_table([("stage", "state", "", "", ""), *map(_stage_cells, facts.stages)]),
        "", *(format_table([("setting", "value", ""), *settings]) if settings else ["no settings are changed"]),
        *(["", *problems] if problems else []),
    ]
    return [printable(line) for line in lines]


def _stage_cells(stage: "StageFacts") -> tuple[str, ...]:
    seconds = "" if stage.seconds is None else f"{stage.seconds:.1f} s"
    return stage.name, stage.state, seconds, "reused" if stage.reused else "", stage.text or stage.summary


def comparison_lines(comparison: "RunComparison") -> list[str]:
    """Format the comparison of two runs as lines of text."""
    settings = [(row.name, str(row.a), str(row.b)) for row in comparison.settings]
    metrics = [(row.name, format_value(row.a), format_value(row.b)) for row in comparison.metrics]
    recalls = [
        (f"recall of class {row.label} ({format_count(row.num_images, 'image')})", format_value(row.a),
         format_value(row.b))
        for row in comparison.classes if row.difference
    ]
    header = ("", comparison.a.run, comparison.b.run)
    lines = [comparison.summary, "", *format_table([header, *settings, *metrics, *recalls[:MAX_ROWS]])]
    if changed := comparison.changed_predictions:
        images = [(row.id, f"class {row.label}", f"{row.a} → {row.b}", row.kind) for row in changed[:MAX_ROWS]]
        lines += ["", f"{format_count(comparison.num_changed, 'image has', 'images have')} different "
                      "predictions:", *format_table(images)]
    return [printable(line) for line in lines]
