"""``carclf label-fixes``: suspected labels, or a user's own list, into the store's ``label_fixes.csv``."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from carclf.artifacts import Audit, Dataset
from carclf.dataset.fixes import (
    LABEL_FIXES_FILE,
    REQUIRED_COLUMNS,
    SHA256_COLUMN,
    LabelFix,
    LabelFixes,
    apply_fixes,
    parse_fixes,
)
from carclf.errors import ConfigError, DataError
from carclf.runs.run import Run
from carclf.services.storage import Store, update_object


def read_suspects(run: Run) -> Any:
    """The ranked suspects of a run's audit as a table; ConfigError where it was not audited.

    A run that drift stopped has an audit too, though its train_head has not finished.
    """
    import pandas as pd

    done = run.record["stages"].get("train_head")
    audit = _audit_of_split(run) if done is None else Audit.find(run.store, done["metrics"].get("audit", "none"))
    if audit is None:
        raise ConfigError(f"The run {run.run_id!r} has no audit. Run it first: carclf train_head --run {run.run_id} "
                          "(with audit.enabled).")
    table = pd.read_parquet(audit.path(run.store, "suspects.parquet"))
    return table[table["is_suspect"]].reset_index(drop=True)


def _audit_of_split(run: Run) -> Audit | None:
    """An audit of the run's split: of the run's own network where there is one, else of another."""
    if (split := run.record["stages"].get("split")) is None:
        return None
    keys = [key.split("/")[1] for key in run.store.list_keys("audits/") if key.endswith("/manifest.json")]
    audits = [audit for key in keys if (audit := Audit.find(run.store, key)) is not None]
    of_split = [audit for audit in audits if audit.inputs.get("split") == split["key"]]
    return max(of_split, key=lambda audit: _likeness(audit, run), default=None)


def _likeness(audit: Audit, run: Run) -> tuple[int, bool]:
    # Counted, for the run may know weights by their place that the audit knows by their content.
    own, network = run.config.model.model_dump(), audit.settings["network"]
    return sum(value == own[name] for name, value in network.items()), audit.settings["seed"] == run.config.seed


def select_fixes(suspects: Any, top: int, ids: Sequence[str], *, drop: bool) -> list[LabelFix]:
    """Fixes of the first ``top`` suspects and of those named; ConfigError for a name that is not suspected."""
    if strangers := sorted(set(ids) - set(suspects["id"])):
        raise ConfigError(f"{strangers[0]!r} is not among the {len(suspects)} suspects. See them with --show, or give "
                          f"your own fixes: --file fixes.csv with the header {','.join(REQUIRED_COLUMNS)}.")
    rows = suspects[(suspects.index < top) | suspects["id"].isin(ids)]
    return [LabelFix(0, row.id, "drop" if drop else "relabel", None if drop else int(row.suggested_label))
            for row in rows.itertuples()]


def read_fixes(path: Path) -> list[LabelFix]:
    """The fixes of a user's own file; DataError for a line that is wrong, ConfigError where there is no file."""
    try:
        return list(parse_fixes(path.read_bytes(), str(path)).entries)
    except OSError as error:
        raise ConfigError(f"--file: {path} cannot be read: {error.strerror}. Give a CSV with the header "
                          f"{','.join(REQUIRED_COLUMNS)}.") from error


def read_index(run: Run) -> Any:
    """The index of a run's pictures, as far as fixes need it."""
    import pandas as pd

    columns = ["id", "path", "label", "source", SHA256_COLUMN, "problem_kind", "problem"]
    return pd.read_parquet(run.artifact(Dataset, "validate").path(run.store, "index.parquet"), columns=columns)


def merge_fixes(
    store: Store, wanted: Iterable[LabelFix], *, replace: bool, index: Any = None
) -> tuple[list[LabelFix], list[LabelFix]]:
    """Add the fixes to the store's file by compare-and-swap: those that were added, and those left as they are.

    A picture that the file names already keeps its line; with ``replace``, or where the line means another content, it
    gets the new one. With the ``index`` of their pictures fixes are written with its content. ConfigError for a picture
    that is wanted twice, DataError, before anything is written, for fixes that could not be applied to the index.
    """
    wanted = list(wanted) if index is None else _with_content(wanted, index)
    names = [fix.id for fix in wanted]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{twice[0]!r} is wanted twice. Name it once: by --top, by --id, or in --file.")
    added: list[LabelFix] = []
    kept: list[LabelFix] = []

    def merged(data: bytes | None) -> bytes | None:
        present = {fix.id: fix for fix in (parse_fixes(data) if data is not None else LabelFixes()).entries}
        added[:] = [fix for fix in wanted if fix.id not in present or _replaces(fix, present[fix.id], replace)]
        kept[:] = [present[fix.id] for fix in wanted if fix.id in present and fix not in added]
        text = _written((present | {fix.id: fix for fix in added}).values())
        if index is not None:
            _require_applicable(text, index)
        return text if added else None

    update_object(store, LABEL_FIXES_FILE, merged)
    return added, kept


def _with_content(fixes: Iterable[LabelFix], index: Any) -> list[LabelFix]:
    """Each fix with the SHA-256 of the picture that it names, where that is one."""
    labelled = index[index["source"] != "test"]
    found = []
    for fix in fixes:
        named = labelled.loc[(labelled["id"] == fix.id) | (labelled["path"] == fix.id), SHA256_COLUMN]
        found.append(changed(fix, sha256=named.iloc[0]) if len(named) == 1 and not fix.sha256 else fix)
    return found


def _replaces(fix: LabelFix, present: LabelFix, replace: bool) -> bool:
    if fix.sha256 and present.sha256 and fix.sha256 != present.sha256:
        return True
    return replace and (fix.action, fix.label) != (present.action, present.label)


def _require_applicable(text: bytes, index: Any) -> None:
    classes = set(index.loc[(index["source"] == "train") & (index["label"] >= 0), "label"])
    try:
        apply_fixes(index, parse_fixes(text), classes)
    except DataError as error:
        raise DataError(f"Nothing was written, since every run would stop at it: {error}") from error


def _written(fixes: Iterable[LabelFix]) -> bytes:
    """The file with its lines; with the column of contents where any has one."""
    rows: list[list[Any]] = [[fix.id, fix.action, "" if fix.label is None else fix.label, fix.sha256] for fix in fixes]
    width = len(REQUIRED_COLUMNS) + any(row[-1] for row in rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(row[:width] for row in [[*REQUIRED_COLUMNS, SHA256_COLUMN], *rows])
    return text.getvalue().encode()


def suspect_lines(suspects: Any, top: int) -> Iterator[str]:
    """A line for each of the first suspects, and what to do with them."""
    for rank, row in enumerate(suspects.head(top).itertuples(), start=1):
        yield f"{rank:>4}. {row.id}: {row.label}, rather {row.suggested_label} (score {row.label_quality:.3f})"
    yield (f"{len(suspects)} suspects, of which many are right; nothing was written. Look at the run's report, then "
           "write those that are wrong with --id ID, or the first N with --top N; --drop leaves them out instead.")


def result_lines(store: Store, added: Sequence[LabelFix], kept: Sequence[LabelFix]) -> Iterator[str]:
    """Lines that say what was written and what comes of it."""
    for fix in added:
        yield f"wrote  {_words(fix)}"
    for fix in kept:
        yield f"kept   {_words(fix)}"
    yield f"{len(added)} fixes written to {store.url}/{LABEL_FIXES_FILE}, {len(kept)} were there." + (
        " The next run applies them." if added else "")


def _words(fix: LabelFix) -> str:
    return f"{fix.id}: {fix.action}{'' if fix.label is None else f' to {fix.label}'}"
