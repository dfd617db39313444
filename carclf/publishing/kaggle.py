"""Publish the champion to Kaggle Models: one version per model, whatever fails.

Kaggle's API lists no notes of versions, but the files of each. ``carclf-<model>.json`` among them identifies the model.
"""

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel

from carclf.errors import ConfigError, StageWaiting
from carclf.publishing.champion import ChampionName, require_champion
from carclf.publishing.settings import KAGGLE_ENV_VAR, LICENSE_ENV_VAR, PublishSettings
from carclf.runs.model_selection import select_model
from carclf.services.kaggle.calls import UnknownOutcomeError
from carclf.services.kaggle.models import ModelClient, VariationName, VariationText
from carclf.services.storage import Store, parse_object
from carclf.temporary import temporary_folder

EXPORT_FORMATS = {"keras": "keras", "onnx": "onnx", "tfLite": "litert"}  # by Kaggle's framework
# A request that timed out may still be executed: before this time, a list without the version proves nothing.
SETTLING_TIME = timedelta(minutes=15)
_NO_ATTEMPT = b"null"


class Attempt(BaseModel, frozen=True):
    """An attempt to create a version, recorded before the request; ``is_accepted`` once Kaggle has confirmed it.

    ``card`` is the model card, to describe the variation if the model becomes the champion again.
    """

    sent_at: AwareDatetime
    card: str
    is_accepted: bool = False


def publish_to_kaggle(champion: ChampionName, store: Store, settings: PublishSettings) -> tuple[str, bool]:
    """Add a version with the champion's files unless Kaggle has one; return the variation's URL, and if it had one.

    The variation's text becomes the champion's model card, and names its version.

    Raise StageWaiting if the outcome of an earlier request is unknown or another process is publishing the model;
    ConfigError if the variation is missing and no license is configured, or if Kaggle rejects the version; ServiceError
    if Kaggle has a temporary fault or the champion changes meanwhile.
    """
    publication = _Publication(champion, store, settings)
    version = publication.find_version()
    was_published = bool(version or publication.record.is_accepted)
    if not was_published:
        publication.create()
        version = publication.find_version()
    publication.describe(version)
    return f"https://www.kaggle.com/models/{publication.client.name}", was_published


class _Record:
    """The attempt to publish a model, in the store."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._stored = store.read(key)

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that was read or written last; None if there was none or if Kaggle rejected it."""
        if self._stored is None or self._stored.data == _NO_ATTEMPT:
            return None
        return parse_object(Attempt, self._stored.data, f"{self._key} in {self._store.url}",
                            "Remove it if no version on Kaggle has the files of this model, and publish again.")

    @property
    def is_accepted(self) -> bool:
        """Whether Kaggle has confirmed the attempt."""
        return self.attempt is not None and self.attempt.is_accepted

    def replace(self, attempt: Attempt | None) -> bool:
        """Write the attempt; return False if another process was faster."""
        data = attempt.model_dump_json().encode() if attempt else _NO_ATTEMPT
        is_written = self._store.write_if(self._key, data, self._stored.version if self._stored else None)
        self._stored = self._store.read(self._key)
        return is_written


class _Publication:
    """The publication of a model as a version of a variation."""

    def __init__(self, champion: ChampionName, store: Store, settings: PublishSettings) -> None:
        self.champion = champion
        self.store = store
        self.license_name = settings.kaggle_license
        self.client = ModelClient(VariationName.parse(settings.kaggle_model, KAGGLE_ENV_VAR))
        self.marker = f"carclf-{champion.model}.json"
        folder = f"publications/kaggle/{str(self.client.name).replace('/', '.')}"
        self.record = _Record(store, f"{folder}/{champion.model}.json")

    def find_version(self) -> int:
        """Return the number of the version with this model; 0 if Kaggle lists none."""
        return self.client.find_version(self.marker) if self.client.find_text() else 0

    def create(self) -> None:
        """Export the model, upload its files and create the version, or the variation with this version."""
        attempt = self.record.attempt
        if attempt and _now() < attempt.sent_at + SETTLING_TIME:
            raise self._outcome_unknown(attempt)
        is_first = self.client.find_text() is None
        if is_first and not self.license_name:
            raise ConfigError(f"{self.client.name} does not exist on Kaggle, and a new one needs a license. Set "
                              f"{LICENSE_ENV_VAR}, for example to 'Apache 2.0', or create it on Kaggle.")
        with temporary_folder() as work:
            files = self._export(work / "model")
            card = (work / "model" / "model_card.md").read_text(encoding="utf-8")
            if is_first:
                self.client.create_model()
            tokens = [self.client.upload(path) for path in files]
        require_champion(self.store, self.champion)
        if not self.find_version():  # another store may have published it during the upload
            self._send(tokens, card, is_first)

    def _export(self, folder: Path) -> list[Path]:
        from carclf.export.bundle import export_model

        formats = [EXPORT_FORMATS[self.client.name.framework]]
        export_model(folder, select_model(self.store, self.champion.model), formats, self.store)
        (folder / self.marker).write_text(json.dumps(asdict(self.champion)))
        return sorted(folder.iterdir())

    def _send(self, tokens: list[str], card: str, is_first: bool) -> None:
        attempt = Attempt(sent_at=_now(), card=card)
        if not self.record.replace(attempt):
            raise StageWaiting(f"another process is publishing the model {self.champion.model} to Kaggle",
                               until=attempt.sent_at + timedelta(minutes=1))
        try:
            if is_first:
                self.client.create_variation(tokens, self._text(card, 0), self.license_name)
            else:
                self.client.create_version(tokens, f"carclf model {self.champion.model}")
        except ConfigError:
            self.record.replace(None)
            raise
        except UnknownOutcomeError as unknown:
            if not self.find_version():
                raise unknown.error or self._outcome_unknown(attempt, str(unknown)) from unknown
        self.record.replace(attempt.model_copy(update={"is_accepted": True}))

    def describe(self, version: int) -> None:
        """Make the variation's text the champion's model card. Without a record of the card, the text stays."""
        current, attempt = self.client.find_text(), self.record.attempt
        if current is None or attempt is None:
            return
        require_champion(self.store, self.champion)
        if (text := self._text(attempt.card, version)) != current:
            self.client.update_text(text)

    def _text(self, card: str, version: int) -> VariationText:
        number = f"version {version}, " if version else ""
        return VariationText(f"The champion is {number}model {self.champion.model}.", card)

    def _outcome_unknown(self, attempt: Attempt, reason: str = "") -> StageWaiting:
        until = attempt.sent_at + SETTLING_TIME
        return StageWaiting(
            f"the outcome of publishing the model {self.champion.model} to Kaggle at {attempt.sent_at:%Y-%m-%d %H:%M} "
            f"UTC is unknown{reason and f' ({reason})'}. No version lists the file {self.marker}. The next check is at "
            f"{until:%Y-%m-%d %H:%M} UTC; then the version is created again unless Kaggle lists it", until=until)


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
