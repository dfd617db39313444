"""``carclf inspect``: show what the files of a source mean, without training."""

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carclf.artifacts import StageContext
from carclf.cli.options import JsonOption, ReadingRecipeOption, SetOption
from carclf.config import Config, load_settings
from carclf.config.sources import parse_source
from carclf.dataset.archives import extract_images
from carclf.dataset.findings import Finding, format_labels
from carclf.dataset.listing import Folder
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count, printable
from carclf.services.storage import init_store, require_store
from carclf.stages.download import download
from carclf.temporary import temporary_folder

if TYPE_CHECKING:
    from carclf.dataset.detection.result import Layout

MAX_FINDINGS = 10
SEVERITIES = ("error", "warning", "info")


def inspect(
    source: Annotated[str, typer.Argument(help="A competition's slug, kaggle://owner/dataset, s3://bucket/prefix, or a "
                                               "path such as ./photos.")],
    recipe: ReadingRecipeOption = "gpu",
    set_: SetOption = [],
    store_url: Annotated[
        str, typer.Option("--store", help="Keep what is downloaded in this store, so that a run reuses it.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Show how the data of a source are read: labels, classes, subsets, test set, submission, metric and groups.

    The exit status is 65 if a run would stop because of the data.
    """
    from carclf.dataset.checks import check_layout

    if any(text.startswith("data.source=") for text in set_):
        raise ConfigError("--set data.source is given next to SOURCE. Give only one source, as the argument SOURCE.")
    config = load_settings(recipe, [*set_, f"data.source={source}"])
    layout = _detect(config, store_url)
    layout = replace(layout, findings=tuple(check_layout(layout, config.validation)))
    print(json.dumps(_to_json(source, layout), indent=1) if as_json else _to_text(source, layout))
    if any(finding.severity == "error" for finding in layout.findings):
        raise typer.Exit(DataError.exit_status)


def _detect(config: Config, store_url: str) -> "Layout":
    """Return the layout of the source; what must be extracted or downloaded is kept in the store, if it is given."""
    from carclf.dataset.detection.detect import detect, detect_in_place

    source = parse_source(config.data.source)
    if source.kind == "folder" and (layout := detect_in_place(Folder(source.name), config)):
        return layout
    with temporary_folder() as work:
        store = require_store(store_url) if store_url else init_store(str(work / "store"))
        archive, _ = download(StageContext(store, config), of_run=False)
        return detect(extract_images(archive, store), config, str(archive.metrics.get("evaluation_metric", "")))


def _to_json(source: str, layout: "Layout") -> dict[str, Any]:
    counts = layout.images["source"].value_counts()
    return {
        "source": source, "class_names": list(layout.class_names), "metric": layout.metric,
        "num_images_by_class": _class_sizes(layout),
        "num_images": {str(name): int(counts[name]) for name in counts.index},
        "submission": asdict(layout.submission) if layout.submission else None,
        "detections": [asdict(detection) for detection in layout.detections],
        "findings": [asdict(finding) | {"severity": finding.severity} for finding in layout.findings],
        "num_ignored": len(layout.ignored),
    }


def _class_sizes(layout: "Layout") -> dict[str, int]:
    """Return the number of training and validation images of each class."""
    images = layout.images
    counts = images.loc[images["source"].isin(["train", "val", "extra"]), "label"].value_counts()
    return {name: int(counts.get(name, 0)) for name in layout.class_names}


def _describe(finding: Finding) -> str:
    """Return the message with its path, unless the message has the path."""
    return finding.message if finding.path in finding.message else f"{finding.path}: {finding.message}"


def _to_text(source: str, layout: "Layout") -> str:
    content = _to_json(source, layout)
    sizes: dict[str, int] = content["num_images_by_class"]
    lines = [f"{'source':<12}{source}"]
    lines += [f"{'class names':<12}{format_labels(f'{name} ({size})' for name, size in sizes.items())}"]
    lines += [f"{row.question:<12}{row.result} ({row.evidence})" for row in layout.detections]
    lines += [f"{'images':<12}" + ", ".join(f"{number} {name}" for name, number in content["num_images"].items())]
    findings = sorted(layout.findings, key=lambda finding: SEVERITIES.index(finding.severity))
    lines += [f"{finding.severity:<12}{_describe(finding)}" for finding in findings[:MAX_FINDINGS]]
    if (num_more := len(findings) - MAX_FINDINGS) > 0:
        lines.append(f"{'':<12}{format_count(num_more, 'more finding')}, which --json lists")
    if layout.ignored:
        lines.append(f"{'ignored':<12}{format_count(len(layout.ignored), 'file')} (first: {layout.ignored[0]})")
    return "\n".join(map(printable, lines))
