"""Client for a variation of a model on Kaggle: its versions, their files, and new versions."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from carclf.errors import ConfigError
from carclf.services.kaggle.calls import ApiCalls, require_type
from carclf.services.kaggle.credentials import create_client, find_credentials
from carclf.services.kaggle.retries import RetryPolicy, TransientError, http_status

T = TypeVar("T")
# The SDK's names of the frameworks, by the names in Kaggle's URLs.
FRAMEWORKS = {"keras": "MODEL_FRAMEWORK_KERAS", "onnx": "MODEL_FRAMEWORK_ONNX", "tfLite": "MODEL_FRAMEWORK_TF_LITE"}
DEFAULT_FRAMEWORK = "keras"
DEFAULT_VARIATION = "champion"
SLUG = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True)
class VariationName:
    """The name of a variation, ``owner/model/framework/variation``; the framework is a key of FRAMEWORKS."""

    owner: str
    model: str
    framework: str
    variation: str

    @classmethod
    def parse(cls, text: str, setting: str) -> "VariationName":
        """Return the name, with defaults if only ``owner/model`` is given.

        Raise ConfigError with the setting that contains the name if it is not valid.
        """
        parts = text.split("/")
        if len(parts) == 2:  # noqa: PLR2004 (owner and model)
            parts += [DEFAULT_FRAMEWORK, DEFAULT_VARIATION]
        problem = ""
        if len(parts) != 4:  # noqa: PLR2004
            problem = "it has no owner" if len(parts) == 1 else f"it has {len(parts)} parts"
        elif parts[2] not in FRAMEWORKS:
            problem = f"{parts[2]!r} is not one of the frameworks {', '.join(FRAMEWORKS)}"
        elif not all(map(SLUG.fullmatch, parts)):
            problem = "a part is empty, too long, or has characters other than letters, digits, - and _"
        if problem:
            raise ConfigError(f"{setting}={text!r}: {problem}. Use owner/model or owner/model/framework/variation.")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.owner}/{self.model}/{self.framework}/{self.variation}"


@dataclass(frozen=True)
class VariationText:
    """The texts that Kaggle shows for a variation: a line and a page in Markdown."""

    overview: str
    usage: str


class ModelClient:
    """A variation of a model on Kaggle.

    All methods raise ConfigError or ServiceError; those that create a version also raise UnknownOutcomeError.
    """

    def __init__(
        self, name: VariationName, *, max_attempts: int = 5, backoff_seconds: float = 2.0,
        read_timeout_seconds: float = 60.0,
    ) -> None:
        from kagglesdk.models.types.model_enums import ModelFramework

        self.name = name
        self._read_timeout_seconds = read_timeout_seconds
        credentials = find_credentials()
        http = create_client(credentials, read_timeout_seconds=read_timeout_seconds)
        hints: dict[int, str] = {
            HTTPStatus.FORBIDDEN: f"The account of the token may not change https://www.kaggle.com/models/{name.owner}/"
                                  f"{name.model}: use a token of {name.owner}.",
        }
        retries = RetryPolicy(credentials.source, max_attempts, backoff_seconds, hints)
        subject = {"owner_slug": name.owner, "model_slug": name.model, "instance_slug": name.variation,
                   "framework": ModelFramework[FRAMEWORKS[name.framework]]}
        self._calls = ApiCalls(http, "models", subject, retries)

    def find_text(self) -> VariationText | None:
        """Return the variation's texts, or None if the variation or its model does not exist."""
        return self._find("GetModelInstance", lambda entry: VariationText(str(entry.overview), str(entry.usage)))

    def create_model(self) -> None:
        """Create the model, as a private one, if it does not exist."""
        if self._find("GetModel", lambda model: True):
            return
        fields = {"slug": self.name.model, "title": self.name.model, "is_private": True}
        try:
            self._calls.call(f"create the model {self.name.model}", "CreateModel", _require_created, **fields)
        except ConfigError:
            # A request that was repeated, or another process, may have created it meanwhile.
            if not self._find("GetModel", lambda model: True):
                raise

    def list_versions(self) -> list[int]:
        """Return the numbers of the versions, the newest first. A new one may be missing for some time."""
        numbers = self._calls.pages(
            f"list the versions of {self.name}", "ListModelInstanceVersions",
            lambda page: [require_type(int, entry.version_number) for entry in _versions(page)])
        return sorted(numbers, reverse=True)

    def list_files(self, version: int) -> list[str]:
        """Return the names of a version's files."""
        return list(self._calls.pages(f"list the files of version {version} of {self.name}",
                                      "ListModelInstanceVersionFiles",
                                      lambda page: [require_type(str, entry.name) for entry in page.files or []],
                                      version_number=version))

    def find_version(self, file_name: str) -> int:
        """Return the newest version that has a file of this name; 0 if there is none."""
        return next((number for number in self.list_versions() if file_name in self.list_files(number)), 0)

    def upload(self, path: Path) -> str:
        """Upload a file and return the token by which a new version refers to it."""
        return self._calls.retries.call(f"upload {path.name}", functools.partial(self._upload, path))

    def create_version(self, tokens: list[str], notes: str) -> None:
        """Add a version with the uploaded files. The request is not repeated."""
        body = self._calls.new_object("ApiCreateModelInstanceVersionRequestBody")
        body.version_notes = notes
        body.files = _new_files(tokens)
        self._calls.create("create a version", "CreateModelInstanceVersion", _require_created, body=body)

    def create_variation(self, tokens: list[str], text: VariationText, license_name: str) -> None:
        """Create the variation; the uploaded files are its first version. The request is not repeated."""
        body = self._calls.new_object("ApiCreateModelInstanceRequestBody")
        body.instance_slug = self.name.variation
        body.framework = self._calls.subject["framework"]
        body.overview = text.overview
        body.usage = text.usage
        body.license_name = license_name
        body.files = _new_files(tokens)
        self._calls.create("create the variation", "CreateModelInstance", _require_created, body=body)

    def update_text(self, text: VariationText) -> None:
        """Replace the variation's texts."""
        mask = self._calls.new_object("FieldMask")
        mask.paths.extend(["overview", "usage"])
        self._calls.call(f"describe {self.name}", "UpdateModelInstance", _require_no_error, overview=text.overview,
                         usage=text.usage, update_mask=mask)

    def _find(self, kind: str, parse: Callable[[Any], T]) -> T | None:
        """Return the parsed response, or None if there is nothing of this name."""
        try:
            return self._calls.call(f"read {self.name}", kind, parse)
        except ConfigError as error:
            if isinstance(error.__cause__, Exception) and http_status(error.__cause__) == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _upload(self, path: Path) -> str:
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType

        status = path.stat()
        blobs = replace(self._calls, service="blobs", subject={})
        token, url = blobs.invoke("StartBlobUpload", _parse_upload, type=ApiBlobType.MODEL, name=path.name,
                                  content_length=status.st_size, last_modified_epoch_seconds=int(status.st_mtime))
        with path.open("rb") as file:
            blobs.put(url, file, self._read_timeout_seconds)
        return token


def _new_files(tokens: list[str]) -> list[Any]:
    from kagglesdk.datasets.types.dataset_api_service import ApiDatasetNewFile

    files = []
    for token in tokens:
        file = ApiDatasetNewFile()
        file.token = token
        files.append(file)
    return files


def _versions(page: Any) -> list[Any]:
    return (page.version_list.versions or []) if page.version_list else []


def _parse_upload(upload: Any) -> tuple[str, str]:
    return require_type(str, upload.token), require_type(str, upload.create_url)


def _require_created(response: Any) -> None:
    _require_no_error(response)
    if not (response.id or response.ref or response.url):
        raise ValueError("there is no reference to what was created")


def _require_no_error(response: Any) -> None:
    if response.error:
        raise TransientError(f"Kaggle responded with the error {response.error!r:.200}")
