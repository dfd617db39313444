"""The champions in tables."""


import json
from collections.abc import Sequence
from typing import Any

from carclf.artifacts import Decision, Evaluation, Model
from carclf.champion import Event, State, model_summary, promotions
from carclf.formatting import printable
from carclf.services.storage import Store

HEAD = ("", "model", "run", "accuracy", "95%", "public", "rank", "when", "by", "")


def champion_rows(store: Store, state: State) -> list[dict[str, Any]]:
    """Each promotion, oldest first, with its interval, its last public score, and whether it is the champion now."""
    return [_entry(store, state, event) for event in promotions(state)]


def history_table(found: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table of the entries; the champion has a star."""
    rows = [HEAD]
    for one in found:
        interval = "" if one["val_accuracy_low"] is None else f"{one['low']:.4f}-{one['high']:.4f}"
        note = f"by hand, because {one['override']}" if one["override"] else ""
        rows.append(("*" if one["champion"] else "", one["model"], one["run"], format_decimals(one["val_accuracy"]), interval,
                     format_decimals(one["public_score"]), str(one["rank"]), one["time"], one["by"], note))
    return format_table(rows)


def champion_details(store: Store, state: State, event: Event) -> dict[str, Any]:
    """An entry with its decision, the metrics of its evaluation, where its files lie, and its events."""
    kinds = {"model": Model, "evaluation": Evaluation, "decision": Decision}
    found = {name: kind.find(store, event[name]) for name, kind in kinds.items() if event.get(name)}
    decision, evaluation = found.get("decision"), found.get("evaluation")
    rules = json.loads(decision.path(store, "decision.json").read_text())["rules"] if decision else []
    return _entry(store, state, event) | {
        "reason": decision.metrics["reason"] if decision else None, "rules": rules,
        "metrics": evaluation.metrics if evaluation else {},
        "files": {name: {file: f"{store.url}/{known.key}" for file, known in one.files.items()} if one else None
                  for name, one in found.items()},
        "events": [other for other in state["history"] if other.get("model") == event["model"]],
    }


def details_table(found: dict[str, Any]) -> list[str]:
    """The lines of what ``shown`` found."""
    rules = [(row["name"], format_digits(row["value"]), format_digits(row["limit"]), "yes" if row["passed"] else "NO",
              ": ".join(filter(None, (row["summary"], row["detail"])))) for row in found["rules"]]
    files = [line for name, known in found["files"].items()
             for line in (known.values() if known is not None else [f"{name}: gone from the store"])]
    events = [f"{event['time']}  {event['action'].replace('_', ' ')}{_told(event)}" for event in found["events"]]
    lines = [
        f"{found['model']} of the run {found['run'] or 'unknown'}{', the champion' if found['champion'] else ''}",
        found["reason"] or "its decision is gone from the store", "",
        *format_table([("rule", "value", "limit", "passed", ""), *rules]), "",
        *format_table([(name, format_digits(value)) for name, value in found["metrics"].items()]), "", *files, "", *events,
    ]
    return [printable(line) for line in lines]


def _entry(store: Store, state: State, event: Event) -> dict[str, Any]:
    evaluation = Evaluation.find(store, event["evaluation"]) if event.get("evaluation") else None
    known = model_summary(state, event, evaluation)
    return known | {
        "rank": "" if known["rank"] is None else known["rank"], "time": event["time"],
        "by": event.get("approved_by", ""), "override": event.get("override", ""), "rejection": event.get("rejection", ""),
        "champion": (state["champion"] or {}).get("model") == event["model"],
    }


def _told(event: Event) -> str:
    if event["action"] == "scored":
        return f": public score {event['public_score']}" + (f", rank {event['rank']}" if event["rank"] != "" else "")
    told = [("by", event.get("approved_by") or event.get("by")), ("from", event.get("previous_model")),
            ("because", event.get("override"))]
    return "".join(f", {word} {value}" for word, value in told if value)


def format_decimals(value: Any) -> str:
    """A figure with four places; "" for none."""
    return f"{value:.4f}" if isinstance(value, float) else str(value if value is not None else "")


def format_digits(value: Any) -> str:
    """A figure with four digits; "" for none."""
    return f"{value:.4g}" if isinstance(value, float) else str(value if value is not None else "")


def format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns under each other; an empty column is left out."""
    rows = [[printable(cell) for cell in row] for row in rows]  # a reason, or a name, may hold anything
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width).rstrip()
            for row in rows]

RUNS_HEAD = ("", "run", "recipe", "created", "state", "stage", "accuracy", "95%", "public", "decision", "minutes", "GPU")
MAX_SHOWN = 20  # rows of a comparison's tables


def runs_table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a table of the index's rows; the champion's run has a star."""
    table = [RUNS_HEAD]
    for row in rows:
        interval = "" if row["val_accuracy_low"] is None else f"{row['low']:.4f}-{row['high']:.4f}"
        on_gpu = f"{row['gpu_minutes']:.1f}" if row["gpu_minutes"] else ""
        table.append(("*" if row["champion"] else "", row["run"], row["recipe"], row["created"][:16], row["state"],
                      row["stage"], format_decimals(row["val_accuracy"]), interval, format_decimals(row["public_score"]),
                      row["decision"], f"{row['minutes']:.1f}", on_gpu))
    return format_table(table)


def run_lines(found: dict[str, Any]) -> list[str]:
    """The lines of what ``reporting.facts`` found."""
    header, row, decision = found["header"], found["row"], found["decision"]
    settings = [(one["name"], str(one["value"]), f"(recipe: {one['default']})") for one in header["settings"]]
    stages = [(one["name"], one["state"], "" if one["seconds"] is None else f"{one['seconds']:.1f} s",
               "reused" if one["reused"] else "", one["text"] or one["summary"]) for one in found["stages"]]
    problems = [f"{problem['part']}: {problem['text']}" for problem in found["problems"]]
    lines = [
        f"{found['run']}, recipe {header['recipe']}, begun {header['created']}{', the champion' * row['champion']}",
        f"{row['state']}{' at ' if row['stage'] else ''}{row['stage']}", *([decision["reason"]] if decision else []),
        "", *format_table([("stage", "state", "", "", ""), *stages]),
        "", *(format_table([("setting", "value", ""), *settings]) if settings else ["all settings are the recipe's"]),
        *(["", *problems] if problems else []),
    ]
    return [printable(line) for line in lines]


def comparison_lines(found: dict[str, Any]) -> list[str]:
    """The lines of what ``reporting.comparison`` found."""
    names = (found["a"]["run"], found["b"]["run"])
    settings = [(one["name"], str(one["a"]), str(one["b"])) for one in found["settings"]]
    metrics = [(one["name"], format_digits(one["a"]), format_digits(one["b"])) for one in found["metrics"]]
    classes = [(f"recall of class {one['label']} ({one['num']} images)", format_digits(one["a"]), format_digits(one["b"]))
               for one in found["classes"] if one["difference"]]
    changed = [(one["id"], f"class {one['label']}", f"{one['a']} → {one['b']}", one["kind"])
               for one in found["changed"][:MAX_SHOWN]]
    lines = [found["summary"], "", *format_table([("", *names), *settings, *metrics, *classes[:MAX_SHOWN]])]
    if changed:
        lines += ["", f"{found['num_changed']} images are answered otherwise:", *format_table(changed)]
    return [printable(line) for line in lines]
