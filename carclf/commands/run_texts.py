"""Runs and comparisons in tables."""

from typing import Any

from carclf.commands.champion_texts import aligned, decimals, digits
from carclf.progress import printable

HEAD = ("", "run", "recipe", "created", "state", "stage", "accuracy", "95%", "public", "decision", "minutes", "GPU")
MAX_SHOWN = 20  # rows of a comparison's tables


def runs_table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a table of the index's rows; the champion's run has a star."""
    table = [HEAD]
    for row in rows:
        interval = "" if row["low"] is None else f"{row['low']:.4f}-{row['high']:.4f}"
        on_gpu = f"{row['gpu_minutes']:.1f}" if row["gpu_minutes"] else ""
        table.append(("*" if row["champion"] else "", row["run"], row["recipe"], row["created"][:16], row["state"],
                      row["stage"], decimals(row["val_accuracy"]), interval, decimals(row["public_score"]),
                      row["decision"], f"{row['minutes']:.1f}", on_gpu))
    return aligned(table)


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
        "", *aligned([("stage", "state", "", "", ""), *stages]),
        "", *(aligned([("setting", "value", ""), *settings]) if settings else ["all settings are the recipe's"]),
        *(["", *problems] if problems else []),
    ]
    return [printable(line) for line in lines]


def comparison_lines(found: dict[str, Any]) -> list[str]:
    """The lines of what ``reporting.comparison`` found."""
    names = (found["a"]["run"], found["b"]["run"])
    settings = [(one["name"], str(one["a"]), str(one["b"])) for one in found["settings"]]
    figures = [(one["name"], digits(one["a"]), digits(one["b"])) for one in found["figures"]]
    classes = [(f"recall of class {one['label']} ({one['num']} images)", digits(one["a"]), digits(one["b"]))
               for one in found["classes"] if one["difference"]]
    changed = [(one["id"], f"class {one['label']}", f"{one['a']} → {one['b']}", one["kind"])
               for one in found["changed"][:MAX_SHOWN]]
    lines = [found["sentence"], "", *aligned([("", *names), *settings, *figures, *classes[:MAX_SHOWN]])]
    if changed:
        lines += ["", f"{found['num_changed']} images are answered otherwise:", *aligned(changed)]
    return [printable(line) for line in lines]
