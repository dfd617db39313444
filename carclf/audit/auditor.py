"""Audit a run's data: rank suspected label errors, and measure drift from the champion's data."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf import artifacts
from carclf.artifacts import Archive, Dataset, Metrics, Provenance, Split, StageContext, build
from carclf.champion import champion_model, champion_split
from carclf.dataset.archives import extract_images
from carclf.errors import DataError
from carclf.progress import log

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

VERSION = 5
NUM_LOGGED = 5
# These affect the features.
NETWORK_SETTINGS = ("backbone", "weights", "image_height", "image_width", "precision", "deterministic")
FeatureLoader = Callable[[Archive, Split], "tuple[pd.DataFrame, npt.NDArray[np.float32]]"]


@dataclass(frozen=True)
class Auditor:
    """The audit of a run's data.

    ``weights`` identifies the initial weights of the backbone. ``load_features`` returns the rows of a split and the
    features of its images without augmentation; it is called only if an artifact has to be created.
    """

    archive: Archive
    split: Split
    context: StageContext
    weights: str
    load_features: FeatureLoader

    def metrics(self) -> tuple[Metrics, bool]:
        """Return metrics and whether all was reused; raise DataError if the drift exceeds ``audit.drift_stop``."""
        audit, audit_reused = self.rank_suspects()
        metrics: Metrics = {"audit": audit.key, "report": audit.file("report.html").key, **audit.metrics}
        if (champion_data := self._champion_data()) is None:
            return metrics, audit_reused
        drift, drift_reused = self.measure_drift(audit, *champion_data)
        report = drift.file("report.html").key
        reason = drift.metric("reason")
        if drift.metric("verdict") == "stop":
            raise DataError(f"{reason} See {report} in {self.context.store.url}. If these are the right data, raise "
                            "audit.drift_stop or use a new store.")
        if drift.metric("verdict") == "warn":
            log.warning("train_head: drift value=%s report=%s: %s", drift.metric("value"), report, reason)
        return metrics | {"report": report, "drift": drift.metric("value")}, audit_reused and drift_reused

    def rank_suspects(self) -> tuple[artifacts.Audit, bool]:
        """Return the usable labeled images ranked by label quality, and whether the ranking was reused."""

        def make(folder: Path) -> Metrics:
            from carclf.audit.label_errors import rank_suspects

            rows, features = self.load_features(self.archive, self.split)
            ranked = rank_suspects(rows, features, self.context.config.seed)
            ranked.to_parquet(folder / "suspects.parquet", index=False)
            suspects = ranked[ranked["is_suspect"]]
            self._write_report(folder, suspects, None)
            for row in suspects.head(NUM_LOGGED).to_dict("records"):
                log.info("train_head: suspected label error path=%s label=%s suggested_label=%s label_quality=%.3f",
                         row["path"], row["label"], row["suggested_label"], row["label_quality"])
            return {"num_suspects": len(suspects), "num_audited": len(ranked)}

        inputs = {"archive": self.archive.key, "split": self.split.key}
        return build(artifacts.Audit, make, Provenance(VERSION, inputs, self._settings()), self.context.store)

    def measure_drift(self, audit: artifacts.Audit, archive: Archive, split: Split) -> tuple[artifacts.Drift, bool]:
        """Return the drift of this run's data from another archive and split, and whether it was reused."""
        config, store = self.context.config, self.context.store

        def make(folder: Path) -> Metrics:
            from carclf.audit.drift import Sample, measure_drift

            sample = Sample(*self.load_features(self.archive, self.split))
            # Random networks with different seeds give different features even for the same images.
            is_comparable = self.weights != "none" or split.settings["seed"] == config.seed
            rows = split.rows(store).query("subset != 'holdout'")
            reference = self.load_features(archive, split) if is_comparable else (rows, None)
            drift = measure_drift(sample, Sample(*reference), config.audit, config.seed)
            limit = {
                "ok": f"within audit.drift_warn = {config.audit.drift_warn}, or explained by chance",
                "warn": f"above audit.drift_warn = {config.audit.drift_warn}",
                "stop": f"above audit.drift_stop = {config.audit.drift_stop}",
            }[drift.verdict]
            summary = (f"Compared with the champion's dataset {split.input('dataset')}, {drift.worst} differs most: "
                       f"{drift.value:.3f} on a scale from 0 to 1, {limit}.")
            content = asdict(drift) | {"summary": summary}
            (folder / "drift.json").write_text(json.dumps(content, indent=1))
            suspects = audit.table(store, "suspects.parquet")
            self._write_report(folder, suspects[suspects["is_suspect"]], content)
            return {"verdict": drift.verdict, "worst": drift.worst, "value": drift.value, "reason": summary}

        inputs = {"audit": audit.key, "champion": split.key}
        settings = self._settings() | config.audit.model_dump()
        return build(artifacts.Drift, make, Provenance(VERSION, inputs, settings), store)

    def _settings(self) -> dict[str, Any]:
        config = self.context.config
        network = config.model.model_dump(include=set(NETWORK_SETTINGS)) | {"weights": self.weights}
        return {"network": network, "seed": config.seed, "salt": self.context.salt}

    def _champion_data(self) -> tuple[Archive, Split] | None:
        """Return the champion's archive and split, or None if there is none or it was trained on this run's dataset."""
        store = self.context.store
        split, model = champion_split(store), champion_model(store)
        if split is None or model is None or split.input("dataset") == self.split.input("dataset"):
            return None
        return Archive.require(store, model.input("archive"), "the champion's archive, to measure drift"), split

    def _write_report(self, folder: Path, suspects: "pd.DataFrame", drift: dict[str, Any] | None) -> None:
        from carclf.reports.dataset_report import DatasetFindings, write_dataset_report

        store = self.context.store
        dataset = Dataset.require(store, self.split.input("dataset"))
        report = json.loads(dataset.path(store, "report.json").read_text())
        images = extract_images(self.archive, store)
        findings = DatasetFindings(report, suspects, drift)
        write_dataset_report(folder / "report.html", dataset.index(store), images, findings)
