"""Inspect every image, exclude the unusable ones, and fail if the dataset is not fit for training."""

import json
import shutil
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf.artifacts import (
    Archive,
    Dataset,
    Inspection,
    Metrics,
    Provenance,
    StageContext,
    build,
    fingerprint,
    upload,
)
from carclf.config import Validation, flatten
from carclf.dataset.archives import extract_images
from carclf.dataset.detection.result import Layout, layout_summary
from carclf.dataset.findings import MAX_REPORTED
from carclf.dataset.fixes import FixedIndex, LabelFixes, apply_fixes, check_fixes, read_fixes
from carclf.errors import DataError
from carclf.natural_order import sort_naturally
from carclf.progress import Meter, log

if TYPE_CHECKING:
    import pandas as pd

    from carclf.dataset.findings import Findings

VERSION = 14
# The layout depends on these and on the section data. submit.positive_class is applied by submit, so that correcting it
# repeats no training.
LAYOUT_SETTINGS = ("submit.sample", "submit.kind")


@dataclass(frozen=True)
class _Source:
    """The folder of the source's files, its layout, and the store's label fixes."""

    folder: Path
    layout: Layout
    fixes: LabelFixes


def validate(archive: Archive, context: StageContext) -> tuple[Dataset, bool]:
    """Return the index of the archive's images with a report of all findings, and whether it was reused.

    The store's label fixes are applied: a changed ``label_fixes.csv`` produces a new dataset. Raise DataError if the
    layout is ambiguous, too many training images are unusable, too many test images are unreadable, a class is too
    small, or labels contradict each other. The report is uploaded anyway.
    """
    store, config = context.store, context.config
    fixes = read_fixes(store)
    settings = config.validation.model_dump() | {"duplicates": config.duplicates.model_dump(), "salt": context.salt}
    settings |= {"data": config.data.model_dump(exclude={"source"})}
    settings |= {name: value for name, value in flatten(config.model_dump()).items() if name in LAYOUT_SETTINGS}
    if fixes.sha256:
        settings["label_fixes"] = fixes.sha256
    provenance = Provenance(VERSION, {"archive": archive.key}, settings)

    def make(folder: Path) -> Metrics:
        from carclf.dataset.checks import raise_on_errors

        source = _read_source(archive, fixes, context)
        inspection = _inspect(archive, source, context).table(store, "index.parquet")
        metrics, findings = _write_dataset(folder, inspection, source, config.validation)
        try:
            raise_on_errors(findings)
        except DataError as error:
            target = f"{Dataset.folder}/{provenance.key(Dataset)}"  # stays without a manifest
            _, report = (upload(store, folder / name, target) for name in ("report.json", "report.html"))
            raise DataError(f"{error} See {report.key} in {store.url}.") from error
        return metrics

    return build(Dataset, make, provenance, store)


def _read_source(archive: Archive, fixes: LabelFixes, context: StageContext) -> _Source:
    """Detect the layout and check the label fixes; raise DataError for bad fixes before the images are decoded."""
    from carclf.dataset.detection.detect import detect

    folder = extract_images(archive, context.store)
    layout = detect(folder, context.config, str(archive.metrics.get("evaluation_metric", "")))
    for detection in layout.detections:
        log.info("validate: detected question=%s result=%r evidence=%r", *astuple(detection))
    check_fixes(fixes, layout.images, set(layout.class_names))
    return _Source(folder, layout, fixes)


def _inspect(archive: Archive, source: _Source, context: StageContext) -> Inspection:
    """Decode every image once. Changes of labels or dataset-wide limits do not repeat this."""
    store, config = context.store, context.config
    paths = source.layout.images["path"].to_list()

    def make(folder: Path) -> Metrics:
        import pandas as pd

        from carclf.dataset.duplicates import find_clusters
        from carclf.dataset.indexing import write_inspection
        from carclf.dataset.inspection import make_pixel_loader

        path = folder / "index.parquet"
        with Meter("validate") as meter:
            write_inspection(source.folder, paths, path, config.validation, meter)
        index = pd.read_parquet(path)
        index["cluster"] = find_clusters(index, make_pixel_loader(source.folder, paths), config.duplicates)
        index.to_parquet(path, index=False)
        return {"num_images": len(index)}

    settings = config.validation.model_dump(include={"min_side", "max_megapixels"})
    settings |= {"duplicates": config.duplicates.model_dump(), "salt": context.salt, "paths": fingerprint(paths=paths)}
    return build(Inspection, make, Provenance(VERSION, {"archive": archive.key}, settings), store)[0]


def _write_dataset(
    folder: Path, inspection: "pd.DataFrame", source: _Source, config: Validation
) -> "tuple[Metrics, Findings]":
    """Write the dataset's files; return its metrics and all findings."""
    from carclf.dataset.checks import file_findings, find_problems, unreadable_test_images
    from carclf.dataset.image_checks import CheckContext
    from carclf.dataset.indexing import join_layout
    from carclf.reports.dataset_report import DatasetFindings, write_dataset_report

    layout = source.layout
    context = CheckContext(layout, config)
    fixed = apply_fixes(join_layout(inspection, layout.images), source.fixes, set(layout.class_names))
    findings = find_problems(fixed.index, context)
    findings.add([*file_findings(layout), *fixed.findings()])
    findings.log()
    index = fixed.index.assign(warning=_warnings(fixed.index, findings))
    num_unreadable = len(unreadable_test_images(index, context))
    metrics = _count_images(index, findings, fixed) | {
        "metric": layout.metric, "num_test": len(layout.test_ids), "num_unreadable_test": num_unreadable,
    }
    summary = layout_summary(layout)
    report = metrics | _report_lists(index) | {
        "findings": findings.to_dict(), "label_fixes": fixed.changes, "detections": summary["detections"]}
    index.to_parquet(folder / "index.parquet", index=False)
    if layout.submission is not None:
        shutil.copyfile(source.folder / layout.submission.sample, folder / "sample-submission.csv")
    (folder / "layout.json").write_text(json.dumps(summary, indent=1))
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    write_dataset_report(folder / "report.html", index, source.folder, DatasetFindings(report))
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
    labeled = index[index["label"] != ""]
    problems = index.loc[index["problem"] != "", ["path", "problem", "source"]]
    is_test = problems.pop("source") == "test"
    return {
        "problems": problems[~is_test][:MAX_REPORTED].to_dict("records"),
        "test_problems": problems[is_test][:MAX_REPORTED].to_dict("records"),
        "class_counts": labeled["label"].value_counts()[sort_naturally(labeled["label"])].to_dict(),
        "num_clusters": len(clusters), "clusters": clusters[:MAX_REPORTED],
    }


def _count_images(index: "pd.DataFrame", findings: "Findings", fixed: FixedIndex) -> Metrics:
    from carclf.dataset.image_checks import conflicting_clusters

    usable = index[index["problem"] == ""]
    is_unusable = (index["problem"] != "") & (index["source"] != "test")
    holdout = usable["source"] == "holdout"
    train = usable[(usable["label"] != "") & ~holdout]
    return {
        "num_train": len(train), "num_extra": int((train["source"] == "extra").sum()),
        "num_holdout": int(holdout.sum()),
        "num_classes": int(train["label"].nunique()), "num_unusable": int(is_unusable.sum()),
        "num_warnings": findings.count("warning"), "num_label_fixes": len(fixed.changes),
        "num_exact_duplicates": int(usable["sha256"].duplicated().sum()),
        "num_conflicting_clusters": len(conflicting_clusters(index)),
    }
