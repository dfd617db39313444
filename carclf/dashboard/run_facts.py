"""All that a run's page needs, as plain data: from the run's record and the artifacts that it names.

What is damaged or gone is told among ``problems`` in place of being raised.
"""

import base64
import csv
import io
from functools import partial
from typing import Any

from carclf.dashboard.champion_facts import champion_facts
from carclf.dashboard.run_sources import AUDIT, RunReader, open_run, to_jsonable
from carclf.dashboard.stage_facts import changed_settings, stage_facts
from carclf.reports.evaluation_report import class_rows
from carclf.runs.index import TRAINING, Row, index_row, is_champion
from carclf.runs.live import LiveProgress, read_live_progress
from carclf.runs.record import training_machine
from carclf.services.storage import Store
from carclf.stages.chain import STAGES

__all__ = ["Facts", "artifact_file", "champion_facts", "error_image", "run_facts"]
Facts = dict[str, Any]
MAX_LISTED = 100  # of the data's findings and problems
FILES = {"validate": ("report.json",), "train_head": ("history.csv",), "fine_tune": ("history.csv",),
         "evaluate": ("evaluation.json", "error_images.json"), "promote": ("decision.json",)}  # that facts are made of
KINDS = ("image", "overlay")
JPEG = "data:image/jpeg;base64,"
VIEWABLE_SUFFIXES, MAX_SHOWN_BYTES = (".html", ".json", ".csv", ".png", ".md"), 32_000_000  # files that a browser is given


def run_facts(store: Store, run_id: str) -> Facts:
    """What is known of a run; JSON-able, without NaN. ConfigError where there is no such run, DataError for its record.

    ``run``, ``store`` (its url), ``row`` (as in ``run_index.rows``; its ``state`` may be silent, too).
    ``header``: ``recipe``, ``created``, ``versions`` (by package), ``machine``, ``gpu`` (name or ""), ``members`` (run
    ids, of an ensemble), ``settings``: those unlike the recipe's, as ``name``, ``value``, ``default``.
    ``stages``: all nine in their order, each ``name``, ``state`` (done, skipped, running, silent: probably killed,
    waiting, failed, open), ``text`` (error, reason to wait or to skip), ``since`` and ``ended`` (ISO 8601 or ""),
    ``seconds`` (None: unknown), ``reused``, ``gpu``, ``summary``, ``metrics``, ``folder`` and ``key`` ("" where it has
    not ended), ``files`` (``name``, ``key`` in the store, ``num_bytes``), ``command``: what repeats it.
    ``live``: as of ``live.live_points``.
    ``curves``: by train_head and fine_tune, the rows of ``history.csv``: ``epoch`` (from 1), ``loss``, ``accuracy``,
    ``val_loss``, ``val_accuracy``, and of fine_tune ``learning_rate``, ``images_per_second``, ``data_wait_fraction``,
    ``seconds``; [] where there are none yet.
    ``data``: None, or ``metrics`` of the dataset, ``split`` and ``audit``: metrics of those, {} where they have not
    run; ``audit_reports``: the names of the audit's pages; ``classes`` (``label``, ``num``), ``findings`` (``severity``,
    ``kind``, ``path``, ``text``) and ``problems`` (``path``, ``problem``), MAX_LISTED of each at most.
    ``evaluation``: None, or ``accuracy``, ``interval`` (low, high), ``num_images``, ``num_correct``, ``temperature``,
    ``calibration_error``, ``uncalibrated_calibration_error``, ``latency_ms``, ``model_mb``, ``class_names``, ``confusion``
    (rows: labels), ``classes`` (``label``, ``num``, ``recall``, ``low``, ``high``, ``named``: how many were called so;
    the weakest first), ``reliability`` (``confidence``, ``accuracy``, its interval ``low`` and ``high``,
    ``num_images``; the least sure first), ``slices`` (``by``, ``name``, ``num_images``, ``num_correct``, ``accuracy``,
    ``low``, ``high``). Of an evaluation of an older version some may be missing.
    ``errors``: the most confident: ``number``, ``id``, ``path``, ``label``, ``predicted``, ``probability``, and
    ``picture`` and ``overlay`` as data: URIs ("" where there is none).
    ``decision``: None, or ``decision``, ``reason``, ``threshold``, ``champion`` (a model's key or None), ``rules``
    (``rule``, ``value``, ``limit``, ``passed``, ``text``), ``paired`` (None, or what ``evaluation.comparison`` tells).
    ``problems``: ``part`` and ``text`` of each part that could not be read; ``unread``: the names of all those parts.
    """
    own = open_run(store, run_id)
    own.fetch(FILES)
    live: dict[str, LiveProgress] = own.part("live", lambda: read_live_progress(store, run_id), {})
    settings: list[Facts] = own.part("settings", lambda: changed_settings(own), [])
    stages = stage_facts(own, settings, live)
    errors: list[Facts] = own.part("errors", lambda: _errors(own), [])
    found = {
        "run": run_id, "store": store.url, "row": _row(own, stages), "header": _header(own, settings),
        "stages": stages, "live": live, "curves": {stage: _curves(own, stage) for stage in TRAINING},
        "data": own.part("data", lambda: _data(own), None),
        "evaluation": own.part("evaluation", lambda: _evaluation(own), None), "errors": errors,
        "decision": own.part("decision", lambda: own.parsed("promote", "decision.json"), None),
    }
    unread = sorted({problem["part"] for problem in own.problems})
    return dict(to_jsonable(found | {"problems": _without_repeats(own.problems), "unread": unread}))


def error_image(store: Store, run_id: str, number: int, kind: str) -> bytes | None:
    """A JPEG of an error of the run's evaluation: ``kind`` picture or overlay; None where there is none.

    ConfigError for what is no run, DataError where the pictures are damaged.
    """
    pictures = open_run(store, run_id).parsed("evaluate", "error_images.json")
    if kind not in KINDS or not isinstance(pictures, list) or not 0 <= number < len(pictures):
        return None
    uri = _jpeg(pictures[number], kind)
    return base64.b64decode(uri.removeprefix(JPEG)) if uri else None


def artifact_file(store: Store, run_id: str, stage: str, name: str) -> bytes | None:
    """A page, table or picture among the files of what a stage or the audit left, checked; None where there is none.

    Models and archives are none of those. ConfigError for what is no run, DataError where the file is damaged.
    """
    own = open_run(store, run_id)
    artifact = own.artifact(stage) if stage in (*STAGES, AUDIT) else None
    file = artifact.files.get(name) if artifact else None
    if file is None or not name.endswith(VIEWABLE_SUFFIXES) or file.num_bytes > MAX_SHOWN_BYTES:
        return None
    return own.content(stage, name)


def _row(own: RunReader, stages: list[Facts]) -> Row:
    row = index_row(own.record) | {"run": own.run_id}
    silent = any(stage["state"] == "stale" and stage["name"] == row["stage"] for stage in stages)
    champion = own.part("champion", lambda: is_champion(own.store, row), False)
    return row | {"state": "stale" if silent else row["state"], "champion": champion}


def _header(own: RunReader, settings: list[dict[str, Any]]) -> Facts:
    record = own.record
    gpus = (result.get("gpu") for result in record["stages"].values())
    return {"recipe": record.get("recipe", ""), "created": record.get("created", ""),
            "versions": record.get("versions", {}), "machine": _machine(record),
            "gpu": next(filter(None, gpus), ""), "members": record.get("members", []), "settings": settings}


def _machine(record: dict[str, Any]) -> str:
    """Where it was trained, or begun where nothing is trained yet."""
    if not (where := training_machine(record)):
        return str(record.get("machine", ""))
    told = [where.get("processor"), f"{where.get('cores')} cores", f"{where.get('memory_gb')} GB", where.get("system"),
            where.get("backend")]
    return ", ".join(str(part) for part in told if part)


def _curves(own: RunReader, stage: str) -> list[dict[str, float | None]]:
    def rows() -> list[dict[str, float | None]]:
        text = (own.content(stage, "history.csv") or b"").decode()
        found = [{name: float(value) if value else None for name, value in row.items()}
                 for row in csv.DictReader(io.StringIO(text))]
        first = found[0].get("epoch") if found else None  # Keras counts them from 0
        return found if first != 0 else [row | {"epoch": (row["epoch"] or 0) + 1} for row in found]

    return own.part(stage, rows, [])


def _data(own: RunReader) -> Facts | None:
    if (report := own.parsed("validate", "report.json")) is None:
        return None
    model, split = (own.part(stage, partial(own.artifact, stage), None) for stage in ("train_head", "split"))
    audit = own.part(AUDIT, lambda: own.artifact(AUDIT), None)
    told = own.result("train_head").get("metrics", {})
    return {
        "metrics": {name: value for name, value in report.items() if isinstance(value, int | float | str)},
        "split": split.metrics if split else {},
        "audit": {name: value for name, value in told.items() if model and name not in model.metrics},
        "audit_reports": [name for name in (audit.files if audit else ()) if name.endswith(".html")],
        "classes": [{"label": int(label), "num": num} for label, num in report.get("class_counts", {}).items()],
        "findings": report.get("findings", {}).get("listed", [])[:MAX_LISTED],
        "problems": report.get("problems", [])[:MAX_LISTED],
    }


def _evaluation(own: RunReader) -> Facts | None:
    if (found := own.parsed("evaluate", "evaluation.json")) is None:
        return None
    shown = {name: value for name, value in found.items() if name != "errors"}
    return shown | {"classes": class_rows(found["class_names"], found["confusion"])}


def _errors(own: RunReader) -> list[Facts]:
    errors = (own.parsed("evaluate", "evaluation.json") or {}).get("errors", [])
    shown: list[dict[str, str]] = own.part("pictures", lambda: _pictures(own), []) if errors else []
    shown += [dict.fromkeys(KINDS, "")] * (len(errors) - len(shown))
    return [{"number": number} | error | one for number, (error, one) in enumerate(zip(errors, shown, strict=False))]


def _pictures(own: RunReader) -> list[dict[str, str]]:
    return [{kind: _jpeg(one, kind) for kind in KINDS} for one in own.parsed("evaluate", "error_images.json") or []]


def _jpeg(pictures: dict[str, str], kind: str) -> str:
    """The data: URI of a picture; "" where there is none, or what is none."""
    uri = pictures.get(kind, "")
    return uri if uri.startswith(JPEG) else ""


def _without_repeats(problems: list[dict[str, str]]) -> list[dict[str, str]]:
    by_text = {problem["text"]: problem for problem in reversed(problems)}
    return list(by_text.values())[::-1]
