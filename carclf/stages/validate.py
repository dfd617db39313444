"""Inspect every image, exclude the unusable ones, and fail if the dataset is not fit for training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Archive, Dataset, Inspection, Metrics, Provenance, StageContext, build, upload
from carclf.config import Validation
from carclf.dataset.archives import extract_images
from carclf.dataset.findings import MAX_REPORTED
from carclf.dataset.fixes import FixedIndex, LabelFixes, apply_fixes, check_fixes, read_fixes
from carclf.errors import DataError
from carclf.progress import Meter

if TYPE_CHECKING:
    import pandas as pd

    from carclf.dataset.findings import Finding, Findings
    from carclf.dataset.image_checks import CheckContext

VERSION = 6


@dataclass(frozen=True)
class _Tables:
    """The folder of images, the competition's tables with their findings, and the store's label fixes."""

    images: Path
    context: "CheckContext"
    findings: "list[Finding]"
    fixes: LabelFixes


def validate(archive: Archive, context: StageContext) -> tuple[Dataset, bool]:
    """Return the index of the archive's images with a report of all findings, and whether it was reused.

    The store's label fixes are applied: a changed ``label_fixes.csv`` produces a new dataset. Raise DataError if too
    many training images are unusable, too many test images are unreadable, a class is too small, or labels contradict
    each other. The report is uploaded anyway.
    """
    store, config = context.store, context.config
    fixes = read_fixes(store)
    settings = config.validation.model_dump() | {"duplicates": config.duplicates.model_dump(), "salt": context.salt}
    if fixes.sha256:
        settings["label_fixes"] = fixes.sha256
    provenance = Provenance(VERSION, {"archive": archive.key}, settings)

    def make(folder: Path) -> Metrics:
        from carclf.dataset.checks import raise_on_errors

        tables = _read_tables(extract_images(archive, store), fixes, config.validation)
        metrics, findings = _write_dataset(folder, _inspect(archive, context).table(store, "index.parquet"), tables)
        try:
            raise_on_errors(findings)
        except DataError as error:
            target = f"{Dataset.folder}/{provenance.key(Dataset)}"  # stays without a manifest
            _, report = (upload(store, folder / name, target) for name in ("report.json", "report.html"))
            raise DataError(f"{error} See {report.key} in {store.url}.") from error
        return metrics

    return build(Dataset, make, provenance, store)


def _read_tables(images: Path, fixes: LabelFixes, config: Validation) -> _Tables:
    """Read the tables and check the label fixes; raise DataError for bad fixes before the images are decoded."""
    from carclf.dataset.checks import read_context
    from carclf.dataset.indexing import list_images

    context, findings = read_context(images, config)
    class_names = None if context.train_csv is None else set(context.train_csv["Category"])
    check_fixes(fixes, list_images(images), class_names)
    return _Tables(images, context, findings, fixes)


def _inspect(archive: Archive, context: StageContext) -> Inspection:
    """Decode every image once. Changes of label fixes or dataset-wide limits do not repeat this."""
    store, config = context.store, context.config

    def make(folder: Path) -> Metrics:
        import pandas as pd

        from carclf.dataset.duplicates import find_clusters
        from carclf.dataset.indexing import write_index
        from carclf.dataset.inspection import make_pixel_loader

        images, path = extract_images(archive, store), folder / "index.parquet"
        with Meter("validate") as meter:
            num_images = write_index(images, path, config.validation, meter)
        index = pd.read_parquet(path)
        index["cluster"] = find_clusters(index, make_pixel_loader(images, index["path"].to_list()), config.duplicates)
        index.to_parquet(path, index=False)
        return {"num_images": num_images}

    settings = config.validation.model_dump(include={"min_side", "max_megapixels"})
    settings |= {"duplicates": config.duplicates.model_dump(), "salt": context.salt}
    return build(Inspection, make, Provenance(VERSION, {"archive": archive.key}, settings), store)[0]


def _write_dataset(folder: Path, inspection: "pd.DataFrame", tables: _Tables) -> "tuple[Metrics, Findings]":
    """Write the dataset's files; return its metrics and all findings."""
    from carclf.dataset.checks import expected_labels, find_problems, unreadable_test_images, with_final_ids
    from carclf.reports.dataset_report import DatasetFindings, write_dataset_report

    context = tables.context
    inspection = with_final_ids(inspection, context.sample_submission)
    fixed = apply_fixes(inspection, tables.fixes, expected_labels(inspection, context))
    findings = find_problems(fixed.index, context)
    findings.add(tables.findings + fixed.findings())
    findings.log()
    index = fixed.index.assign(warning=_warnings(fixed.index, findings))
    num_test, num_unreadable = len(context.sample_submission), len(unreadable_test_images(index, context))
    metrics = {"num_test": num_test, "num_unreadable_test": num_unreadable} | _count_images(index, findings, fixed)
    report = metrics | _report_lists(index) | {"findings": findings.to_dict(), "label_fixes": fixed.changes}
    index.to_parquet(folder / "index.parquet", index=False)
    context.sample_submission.to_csv(folder / "sample-submission.csv", index=False)
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    write_dataset_report(folder / "report.html", index, tables.images, DatasetFindings(report))
    return metrics, findings


def _warnings(index: "pd.DataFrame", findings: "Findings") -> "pd.Series[str]":
    """Return each image's warning, or the error that names the image, so that the page shows it."""
    import pandas as pd

    errors = {finding.path: finding.message for finding in findings.reported if finding.severity == "error"}
    messages = findings.warnings | errors
    return pd.Series([messages.get(path, "") for path in index["path"]], index.index, dtype="str")


def _report_lists(index: "pd.DataFrame") -> dict[str, Any]:
    from carclf.dataset.duplicates import describe_clusters

    clusters = describe_clusters(index)
    labeled = index[index["label"] >= 0]
    problems = index.loc[index["problem"] != "", ["path", "problem", "source"]]
    is_test = problems.pop("source") == "test"
    return {
        "problems": problems[~is_test][:MAX_REPORTED].to_dict("records"),
        "test_problems": problems[is_test][:MAX_REPORTED].to_dict("records"),
        "class_counts": labeled["label"].value_counts().sort_index().to_dict(),
        "num_clusters": len(clusters), "clusters": clusters[:MAX_REPORTED],
    }


def _count_images(index: "pd.DataFrame", findings: "Findings", fixed: FixedIndex) -> Metrics:
    from carclf.dataset.image_checks import conflicting_clusters

    usable = index[index["problem"] == ""]
    is_unusable = (index["problem"] != "") & (index["source"] != "test")
    train = usable[usable["label"] >= 0]
    return {
        "num_train": len(train), "num_extra": int((train["source"] == "extra").sum()),
        "num_classes": int(train["label"].nunique()), "num_unusable": int(is_unusable.sum()),
        "num_warnings": findings.count("warning"), "num_label_fixes": len(fixed.changes),
        "num_exact_duplicates": int(usable["sha256"].duplicated().sum()),
        "num_conflicting_clusters": len(conflicting_clusters(index)),
    }
