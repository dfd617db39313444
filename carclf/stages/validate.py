"""Decode every picture once; list and leave out the unusable; stop where training would be wrong."""

import json
from pathlib import Path

from carclf.artifacts import Archive, Dataset, Figures, build
from carclf.config import Config
from carclf.progress import Meter, log
from carclf.services.storage import Store

VERSION = 2


def validate(archive: Archive, config: Config, store: Store, *, salt: str = "") -> tuple[Dataset, bool]:
    """The index of the archive's pictures and a report of what is wrong with them; DataError where too much is."""

    def make(folder: Path) -> Figures:
        from carclf.data.checks import check, contradictions, index_images, read_sample
        from carclf.data.images import unpack

        images = unpack(archive, store)
        with Meter("validate") as meter:
            index = index_images(images, config.validation, meter)
        sample = read_sample(images)
        check(index, sample, config.validation)
        problems = index.loc[index["problem"] != "", ["path", "problem"]]
        for path, problem in problems.itertuples(index=False):
            log.warning("left out %s: %s", path, problem)
        train = index[index["label"] >= 0]
        twice = contradictions(train)
        for path in train.loc[train["sha256"].isin(twice), "path"]:
            log.warning("%s stands under another label too", path)
        num_duplicates = int(index.loc[index["problem"] == "", "sha256"].duplicated().sum())
        figures: Figures = {
            "num_train": int((train["problem"] == "").sum()), "num_test": len(sample),
            "num_classes": int(train["label"].nunique()), "num_unusable": len(problems),
            "num_duplicates": num_duplicates, "num_contradictions": len(twice),
        }
        report = figures | {"problems": problems.to_dict("records"),
                            "class_counts": train["label"].value_counts().sort_index().to_dict()}
        index.to_parquet(folder / "index.parquet", index=False)
        sample.to_csv(folder / "sample-submission.csv", index=False)
        (folder / "report.json").write_text(json.dumps(report, indent=1))
        return figures

    return build(Dataset, make, store=store, version=VERSION, inputs={"archive": archive.key},
                 settings=config.validation.model_dump() | {"salt": salt})
