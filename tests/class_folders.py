"""The layout of a competition in class folders, and its index, without detecting either."""

from pathlib import Path

import pandas as pd

from carclf.config import Duplicates, Validation
from carclf.dataset.detection.result import Layout, SubmissionFormat
from carclf.dataset.duplicates import find_clusters
from carclf.dataset.indexing import join_layout, write_inspection
from carclf.dataset.inspection import make_pixel_loader
from carclf.natural_order import sort_naturally

SAMPLE = "sample-submission.csv"


def read_layout(folder: Path) -> Layout:
    """Return the layout of train/<class>/*, test_upload/**, extra-data/*/<class>/* and sample-submission.csv."""
    paths = sorted(path.relative_to(folder) for top in ("train/*/*", "test_upload/**/*") for path in folder.glob(top)
                   if path.is_file())
    is_train = [path.parts[0] == "train" for path in paths]
    images = pd.DataFrame({
        "id": [path.name for path in paths], "path": [path.as_posix() for path in paths],
        "label": [path.parts[1] if train else "" for path, train in zip(paths, is_train, strict=True)],
        "source": ["train" if train else "test" for train in is_train], "group": "",
    }, dtype="str")
    class_names = tuple(sort_naturally(path.name for path in folder.glob("train/*")))
    sample = pd.read_csv(folder / SAMPLE, dtype=str) if (folder / SAMPLE).exists() else None
    form = SubmissionFormat(SAMPLE, "Id", ("Category",), "label", {name: name for name in class_names})
    extra = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("extra-data/*/*/*"))]
    images = pd.concat([images, pd.DataFrame({
        "id": extra, "path": extra, "label": [path.split("/")[2] for path in extra], "source": "extra", "group": "",
    }, dtype="str")], ignore_index=True)
    return Layout(images, class_names, "accuracy", None if sample is None else form, (),
                  () if sample is None else tuple(sample["Id"]))


def build_index(folder: Path, config: Validation, layout: Layout | None = None) -> pd.DataFrame:
    """Inspect the images of a layout, by default that of the folder; return their index."""
    images = (layout or read_layout(folder)).images
    target = folder / "index.parquet"
    write_inspection(folder, images["path"].to_list(), target, config)
    index = join_layout(pd.read_parquet(target), images)
    return index.assign(cluster=find_clusters(index, make_pixel_loader(folder, index["path"]), Duplicates()))
