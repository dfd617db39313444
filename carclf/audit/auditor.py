"""The audit of a run's data, once its features are there: suspected labels, and drift from the champion's data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from carclf import artifacts
from carclf.artifacts import Archive, Dataset, Metrics, Provenance, Split, build
from carclf.champion import champion_model, champion_split
from carclf.config import Config
from carclf.errors import DataError
from carclf.progress import log
from carclf.services.storage import Store

VERSION = 2
NUM_LOGGED = 5
NETWORK_SETTINGS = ("backbone", "weights", "image_height", "image_width", "precision")  # what decides the plain features
Plain = Callable[[Archive, Split], tuple[Any, Any]]  # rows, and the features of their plain view


class Auditor:
    """One run's data; ``plain`` gets features and is called only where something is to be made."""

    def __init__(
        self, archive: Archive, split: Split, config: Config, store: Store, settings: dict[str, Any], plain: Plain
    ) -> None:
        self.archive, self.split, self.config, self.store, self.plain = archive, split, config, store, plain
        network = {name: settings["model"][name] for name in NETWORK_SETTINGS}
        self.settings = {"network": network, "seed": settings["seed"], "salt": settings["salt"]}

    def metrics(self) -> tuple[Metrics, bool]:
        """What the audit found and whether all was reused; DataError where the drift is more than is allowed."""
        audit, reused = self.suspects()
        metrics: Metrics = {"audit": audit.key, "report": audit.files["report.html"].key, **audit.metrics}
        if (compared := self._champions()) is None:
            return metrics, reused
        drift, known = self.drift(audit, *compared)
        page = drift.files["report.html"].key
        if drift.metrics["verdict"] == "stop":
            raise DataError(f"{drift.metrics['reason']} Look at {page} in {self.store.url}. Are these the right data? "
                            "If so, raise audit.drift_stop, or begin a store of their own.")
        if drift.metrics["verdict"] == "warn":
            log.warning("%s Look at %s", drift.metrics["reason"], page)
        return metrics | {"report": page, "drift": drift.metrics["value"]}, reused and known

    def suspects(self) -> tuple[artifacts.Audit, bool]:
        """Every usable labelled picture ranked by how little others believe its label."""

        def make(folder: Path) -> Metrics:
            from carclf.audit.label_errors import rank_suspects

            rows, features = self.plain(self.archive, self.split)
            ranked = rank_suspects(rows, features, self.config.seed)
            ranked.to_parquet(folder / "suspects.parquet", index=False)
            found = ranked[ranked["is_suspect"]]
            self._write_page(folder, found, None)
            for row in found.head(NUM_LOGGED).itertuples():
                log.info("suspected label: %s, %s is rather %s (%.3f)", row.path, row.label, row.suggested_label, row.label_quality)
            return {"num_suspects": len(found), "num_audited": len(ranked)}

        return build(artifacts.Audit, make, Provenance(VERSION, {"archive": self.archive.key, "split": self.split.key}, self.settings), self.store)

    def drift(self, audit: artifacts.Audit, archive: Archive, split: Split) -> tuple[artifacts.Drift, bool]:
        """This run's data beside those of another archive and split."""
        own = self.config.audit

        def make(folder: Path) -> Metrics:
            import pandas as pd

            from carclf.audit.drift import measure_drift

            drift = measure_drift(self.plain(self.archive, self.split), self._others(archive, split), own,
                                  self.config.seed)
            limit = {"ok": f"within audit.drift_warn = {own.drift_warn}, or by chance",
                     "warn": f"above audit.drift_warn = {own.drift_warn}",
                     "stop": f"above audit.drift_stop = {own.drift_stop}"}[drift["verdict"]]
            drift["summary"] = (f"Beside the champion's dataset {split.inputs['dataset']}, {drift['worst']} differs "
                                f"most: by {drift['value']:.3f} of 1, {limit}.")
            (folder / "drift.json").write_text(json.dumps(drift, indent=1))
            suspects = pd.read_parquet(audit.path(self.store, "suspects.parquet"))
            self._write_page(folder, suspects[suspects["is_suspect"]], drift)
            return {name: drift[name] for name in ("verdict", "worst", "value")} | {"reason": drift["summary"]}

        return build(artifacts.Drift, make, Provenance(VERSION, {"audit": audit.key, "champion": split.key}, self.settings | own.model_dump()), self.store)

    def _champions(self) -> tuple[Archive, Split] | None:
        """The archive and the split of the champion, where its dataset is another one than this."""
        split, model = champion_split(self.store), champion_model(self.store)
        if split is None or model is None or split.inputs["dataset"] == self.split.inputs["dataset"]:
            return None
        if (archive := Archive.find(self.store, model.inputs["archive"])) is None:
            raise DataError(f"The champion's archive {model.inputs['archive']} is gone from {self.store.url}, so that "
                            "nothing can be compared with it. Restore it, or set audit.enabled to false.")
        return archive, split

    def _others(self, archive: Archive, split: Split) -> tuple[Any, Any]:
        # features of nets that begin at random, differently, would differ on the same pictures
        if self.settings["network"]["weights"] == "none" and split.settings["seed"] != self.config.seed:
            import pandas as pd

            return pd.read_parquet(split.path(self.store, "split.parquet")), None
        return self.plain(archive, split)

    def _write_page(self, folder: Path, suspects: Any, drift: dict[str, Any] | None) -> None:
        import pandas as pd

        from carclf.dataset.archives import extract_images
        from carclf.reports.dataset_report import write_dataset_report

        key = self.split.inputs["dataset"]
        if (dataset := Dataset.find(self.store, key)) is None:
            raise DataError(f"The dataset {key} is gone from {self.store.url}. Run validate again.")
        index = pd.read_parquet(dataset.path(self.store, "index.parquet"))
        report = json.loads(dataset.path(self.store, "report.json").read_text())
        write_dataset_report(folder / "report.html", index, report, extract_images(self.archive, self.store), suspects=suspects,
                     drift=drift)
