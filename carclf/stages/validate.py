"""Look at every picture once; list and leave out the unusable; stop where training would be wrong, with a page."""

import json
from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Dataset, Inspection, Metrics, Provenance, StageContext, build, upload
from carclf.config import Config
from carclf.dataset.fixes import LabelFixes, read_fixes
from carclf.errors import DataError
from carclf.progress import Meter
from carclf.services.storage import Store

VERSION = 4


def validate(archive: Archive, context: StageContext) -> tuple[Dataset, bool]:
    """The index of the archive's pictures and a report of what is wrong with them; DataError where too much is.

    The store's label fixes are applied: another ``label_fixes.csv`` makes another dataset.
    """
    config, store, salt = context.config, context.store, context.salt
    fixes = read_fixes(store)
    settings = config.validation.model_dump() | {"duplicates": config.duplicates.model_dump(), "salt": salt}
    if fixes.sha256:
        settings["label_fixes"] = fixes.sha256

    inputs = {"archive": archive.key}

    def make(folder: Path) -> Metrics:
        from carclf.dataset.archives import extract_images
        from carclf.dataset.checks import raise_on_errors

        images = extract_images(archive, store)
        context = _context(images, fixes, config)
        inspection = _inspected(archive, context)
        metrics, findings = _examine(folder, images, inspection.path(store, "index.parquet"), fixes, context)
        try:
            raise_on_errors(findings)
        except DataError as error:
            page = _leave_report(folder, store, Provenance(VERSION, inputs, settings).key(Dataset))
            raise DataError(f"{error} Look at {page} in {store.url}.") from error
        return metrics

    return build(Dataset, make, Provenance(VERSION, inputs, settings), store)


def _leave_report(folder: Path, store: Store, key: str) -> str:
    """The report in the store, without a manifest, since there is no dataset; the key of its page."""
    _, page = (upload(store, folder / name, f"{Dataset.folder}/{key}") for name in ("report.json", "report.html"))
    return page.key


def _context(images: Path, fixes: LabelFixes, config: Config) -> Any:
    """What the checks need beside the index; DataError for fixes that could not be applied, before the pass."""
    from carclf.dataset.checks import read_context
    from carclf.dataset.fixes import check_fixes
    from carclf.dataset.indexing import list_images

    context = read_context(images, config.validation)
    table = context[0].table
    check_fixes(fixes, list_images(images), None if table is None else set(table["Category"]))
    return context


def _inspected(archive: Archive, context: StageContext) -> Inspection:
    """The pass over the pictures, which label fixes and limits of the whole dataset do not repeat."""
    config, store, salt = context.config, context.store, context.salt
    settings = {"min_side": config.validation.min_side, "max_megapixels": config.validation.max_megapixels,
                "duplicates": config.duplicates.model_dump(), "salt": salt}

    def make(folder: Path) -> Metrics:
        import pandas as pd

        from carclf.dataset.archives import extract_images
        from carclf.dataset.duplicates import find_clusters
        from carclf.dataset.indexing import write_index
        from carclf.dataset.inspection import make_pixel_loader

        images, target = extract_images(archive, store), folder / "index.parquet"
        with Meter("validate") as meter:
            num_images = write_index(images, target, config.validation, meter)
        index = pd.read_parquet(target)
        index["cluster"] = find_clusters(index, make_pixel_loader(images, index["path"].to_list()), config.duplicates)
        index.to_parquet(target, index=False)
        return {"num_images": num_images}

    inputs = {"archive": archive.key}
    return build(Inspection, make, Provenance(VERSION, inputs, settings), store)[0]


def _examine(
    folder: Path, images: Path, inspected: Path, fixes: LabelFixes, context: Any
) -> tuple[Metrics, Any]:
    """The dataset's files, its metrics, and all that was found."""
    import pandas as pd

    from carclf.dataset.checks import expected_labels, find_problems
    from carclf.dataset.fixes import apply_fixes
    from carclf.reports.dataset_report import DatasetFindings, write_dataset_report

    own, of_tables = context
    raw = pd.read_parquet(inspected)
    fixed = apply_fixes(raw, fixes, expected_labels(raw, own))
    findings = find_problems(fixed.index, own)
    findings.add(of_tables + fixed.findings())
    findings.log()
    # Where an error names a picture, the page shall show it.
    said = findings.warnings | {one.path: one.text for one in findings.listed if one.severity == "error"}
    warnings = [said.get(path, "") for path in fixed.index["path"]]
    index = fixed.index.assign(warning=pd.Series(warnings, fixed.index.index, dtype="str"))
    metrics = {"num_test": len(own.sample)} | _figures(index, findings, fixed)
    report = metrics | _lists(index) | {"findings": findings.report(), "label_fixes": fixed.applied}
    index.to_parquet(folder / "index.parquet", index=False)
    own.sample.to_csv(folder / "sample-submission.csv", index=False)
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    write_dataset_report(folder / "report.html", index, images, DatasetFindings(report))
    return metrics, findings


def _lists(index: Any) -> dict[str, Any]:
    from carclf.dataset.duplicates import describe_clusters
    from carclf.dataset.findings import MAX_REPORTED

    clusters = describe_clusters(index)
    return {
        "problems": index.loc[index["problem"] != "", ["path", "problem"]][:MAX_REPORTED].to_dict("records"),
        "class_counts": index.loc[index["label"] >= 0, "label"].value_counts().sort_index().to_dict(),
        "num_clusters": len(clusters), "clusters": clusters[:MAX_REPORTED],
    }


def _figures(index: Any, findings: Any, fixed: Any) -> Metrics:
    from carclf.dataset.image_checks import conflicting_clusters

    usable = index[index["problem"] == ""]
    train = usable[usable["label"] >= 0]
    return {
        "num_train": len(train), "num_extra": int((train["source"] == "extra").sum()),
        "num_classes": int(train["label"].nunique()), "num_unusable": len(index) - len(usable),
        "num_warnings": findings.count("warning"), "num_label_fixes": len(fixed.applied),
        "num_exact_duplicates": int(usable["sha256"].duplicated().sum()), "num_conflicting_clusters": len(conflicting_clusters(index)),
    }
