"""``carclf label-fixes``: write fixes of suspected labels, or your own fixes, to the store."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from carclf.artifacts import Audit, Dataset
from carclf.cli.completion import complete_run
from carclf.cli.options import StoreOption
from carclf.dataset.fixes import LABEL_FIXES_FILE, REQUIRED_COLUMNS, SHA256_COLUMN, LabelFix, apply_fixes, parse_fixes
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count
from carclf.runs.run import Run
from carclf.runs.run_names import load_run
from carclf.services.storage import Store, format_command, require_store, update_object

if TYPE_CHECKING:
    import pandas as pd

NUM_LISTED = 20  # suspects listed without --top


def label_fixes(
    run_id: Annotated[
        str, typer.Option("--run", help="The run whose audit names the suspects.", autocompletion=complete_run)
    ] = "",
    store_url: StoreOption = "store",
    top: Annotated[
        int, typer.Option(min=0, help="Write fixes for those of the first N suspects that are not validation images.")
    ] = 0,
    ids: Annotated[
        list[str], typer.Option("--id", help="Write the fix for this suspect, no validation image. Can be repeated.")
    ] = [],
    drop: Annotated[bool, typer.Option("--drop", help="Exclude the images instead of relabeling them.")] = False,
    file: Annotated[
        Optional[Path], typer.Option("--file", help="A CSV file with your own fixes: id,action,label[,sha256].")
    ] = None,
    replace_existing: Annotated[
        bool, typer.Option("--replace", help="Replace existing fixes of the same images.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Only list the suspects.")] = False,
) -> None:
    """List suspected label errors, or write fixes for the next run to the store's label_fixes.csv."""
    if not run_id and (show or not file):
        raise ConfigError("Give --run to list or fix the suspects of a run, or --file with your own fixes.")
    store = require_store(store_url)
    fixes = read_fixes_file(file) if file else []
    index = None
    if run_id:
        run = load_run(run_id, store)
        suspects = read_suspects(run)
        if show or not (top or ids or file):
            print(*suspect_lines(suspects, top or NUM_LISTED), sep="\n")
            return
        fixes += select_fixes(suspects, top, ids, drop=drop)
        index = run.artifact(Dataset, "validate").index(store)
    written, kept = merge_fixes(store, fixes, replace_existing=replace_existing, index=index)
    print(*result_lines(store, written, kept), sep="\n")


def read_suspects(run: Run) -> "pd.DataFrame":
    """Return the suspects of a run's audit, the most suspicious first.

    Raise ConfigError if the run has no audit. A run stopped by drift has an audit, although train_head did not finish.
    """
    head = run.record["stages"].get("train_head")
    audit = _audit_of_split(run) if head is None else Audit.find(run.store, str(head["metrics"].get("audit", "none")))
    if audit is None:
        command = format_command(run.store, f"train_head --run {run.run_id}")
        raise ConfigError(f"The run {run.run_id!r} has no audit. Run it with audit.enabled=true: {command}")
    table = audit.table(run.store, "suspects.parquet")
    return table[table["is_suspect"]].reset_index(drop=True)


def _audit_of_split(run: Run) -> Audit | None:
    """Return an audit of the run's split, preferably with the same network and seed."""
    if (split := run.record["stages"].get("split")) is None:
        return None
    audits = [audit for key in Audit.list_keys(run.store) if (audit := Audit.find(run.store, key)) is not None]
    of_split = [audit for audit in audits if audit.inputs.get("split") == split["key"]]
    return max(of_split, key=lambda audit: _similarity(audit, run), default=None)


def _similarity(audit: Audit, run: Run) -> tuple[int, bool]:
    # Count equal settings, as not all may match: the run may name a weights file, but the audit has the file's hash.
    settings = run.config.model.model_dump()
    num_equal = sum(value == settings[name] for name, value in audit.settings["network"].items())
    return num_equal, audit.settings["seed"] == run.config.seed


def select_fixes(suspects: "pd.DataFrame", top: int, ids: Sequence[str], *, drop: bool) -> list[LabelFix]:
    """Return fixes for the first ``top`` suspects, except for validation images, and the suspects with these ids.

    Raise ConfigError for an unknown id or a validation image. The suggested label is the opinion of a model: models
    would seem better on validation images that are relabeled or dropped by it.
    """
    if unknown := sorted(set(ids) - set(suspects["id"])):
        raise ConfigError(f"{unknown[0]!r} is not among the {len(suspects)} suspects, which --show lists. To fix other "
                          f"labels, give --file with a CSV file that starts with {','.join(REQUIRED_COLUMNS)}.")
    from carclf.dataset.champion_split import VAL

    is_validation = suspects["subset"] == VAL
    if validation := suspects["id"][is_validation & suspects["id"].isin(ids)].tolist():
        raise ConfigError(f"{validation[0]!r} is a validation image, which is not fixed by a model's suggestion. View "
                          "it, and give your own decision by --file with a CSV file that starts with "
                          f"{','.join(REQUIRED_COLUMNS)}.")
    rows = suspects[((suspects.index < top) & ~is_validation) | suspects["id"].isin(ids)]
    if drop:
        return [LabelFix(0, name, "drop", None) for name in rows["id"]]
    labels = rows["suggested_label"]
    return [LabelFix(0, name, "relabel", label) for name, label in zip(rows["id"], labels, strict=True)]


def read_fixes_file(path: Path) -> list[LabelFix]:
    """Return the fixes of a CSV file; raise ConfigError if it cannot be read, DataError if a line is invalid."""
    try:
        return list(parse_fixes(path.read_bytes(), str(path)).entries)
    except OSError as error:
        raise ConfigError(f"--file: cannot read {path}: {error.strerror}. Give a CSV file that starts with "
                          f"{','.join(REQUIRED_COLUMNS)}.") from error


def merge_fixes(
    store: Store, fixes: Sequence[LabelFix], *, replace_existing: bool, index: "pd.DataFrame | None" = None
) -> tuple[list[LabelFix], list[LabelFix]]:
    """Add fixes to the store's file by compare-and-swap; return the written fixes and the kept existing fixes.

    An existing fix of the same image is kept, unless ``replace_existing`` is set or the image has changed since. With
    the ``index`` of the images, each fix includes the hash of its image. Raise ConfigError if an image has two fixes.
    Raise DataError, without writing anything, if the fixes cannot be applied to the index.
    """
    fixes = list(fixes) if index is None else _with_content(fixes, index)
    ids = [fix.id for fix in fixes]
    if repeated := sorted({name for name in ids if ids.count(name) > 1}):
        raise ConfigError(f"{repeated[0]!r} has two fixes. Name it once: by --top, by --id or in --file.")
    written: list[LabelFix] = []
    kept: list[LabelFix] = []

    def merge(data: bytes | None) -> bytes | None:
        existing = {} if data is None else {fix.id: fix for fix in parse_fixes(data).entries}
        written[:] = [fix for fix in fixes if _is_written(fix, existing.get(fix.id), replace_existing)]
        kept[:] = [existing[fix.id] for fix in fixes if fix not in written]
        content = _to_csv((existing | {fix.id: fix for fix in written}).values())
        if index is not None:
            _check_applicable(content, index)
        return content if written else None

    update_object(store, LABEL_FIXES_FILE, merge)
    return written, kept


def _with_content(fixes: Iterable[LabelFix], index: "pd.DataFrame") -> list[LabelFix]:
    """Add the SHA-256 of the image to each fix that names exactly one labeled image."""
    labeled = index[index["source"] != "test"]
    completed = []
    for fix in fixes:
        hashes = labeled.loc[(labeled["id"] == fix.id) | (labeled["path"] == fix.id), SHA256_COLUMN]
        is_unique = len(hashes) == 1 and not fix.sha256
        completed.append(replace(fix, sha256=hashes.iloc[0]) if is_unique else fix)
    return completed


def _is_written(fix: LabelFix, existing: LabelFix | None, replace_existing: bool) -> bool:
    if existing is None or (fix.sha256 and existing.sha256 and fix.sha256 != existing.sha256):
        return True
    return replace_existing and (fix.action, fix.label) != (existing.action, existing.label)


def _check_applicable(content: bytes, index: "pd.DataFrame") -> None:
    class_names = set(index.loc[(index["source"] == "train") & (index["label"] != ""), "label"])
    try:
        apply_fixes(index, parse_fixes(content), class_names)
    except DataError as error:
        raise DataError(f"No fix was written, because every later run would fail: {error}") from error


def _to_csv(fixes: Iterable[LabelFix]) -> bytes:
    """Return the content of the file, without the column of hashes if no fix has a hash."""
    rows = [[fix.id, fix.action, "" if fix.label is None else str(fix.label), fix.sha256] for fix in fixes]
    num_columns = len(REQUIRED_COLUMNS) + any(row[-1] for row in rows)
    text = io.StringIO()
    header = [*REQUIRED_COLUMNS, SHA256_COLUMN]
    csv.writer(text, lineterminator="\n").writerows(row[:num_columns] for row in [header, *rows])
    return text.getvalue().encode()


def suspect_lines(suspects: "pd.DataFrame", top: int) -> Iterator[str]:
    """Yield a line for each of the first suspects, and how to continue."""
    for rank, row in enumerate(suspects.head(top).itertuples(), start=1):
        yield (f"{rank:>4}. {row.id} ({row.subset}): label {row.label}, suggested {row.suggested_label} (label quality "
               f"{row.label_quality:.3f})")
    yield (f"{format_count(len(suspects), 'suspect')}, many with correct labels. Nothing was written. Check them in "
           "the run's report, then write the wrong ones with --id ID, or the first N with --top N. Add --drop to "
           "exclude the images. Validation images (val) are fixed by your own decision only: --file FILE.")


def result_lines(store: Store, written: Sequence[LabelFix], kept: Sequence[LabelFix]) -> Iterator[str]:
    """Yield a line for each fix, and a summary."""
    yield from (f"wrote  {_describe(fix)}" for fix in written)
    yield from (f"kept   {_describe(fix)}" for fix in kept)
    hint = " The next run applies them." if written else ""
    yield (f"{store.url}/{LABEL_FIXES_FILE}: {format_count(len(written), 'fix', 'fixes')} written, "
           f"{format_count(len(kept), 'existing one')} kept.{hint}")


def _describe(fix: LabelFix) -> str:
    return f"{fix.id}: {fix.action}{'' if fix.label is None else f' to {fix.label}'}"
