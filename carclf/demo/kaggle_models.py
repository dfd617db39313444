"""Kaggle's side of the protocol for models: their variations and versions.

The wire format is that of kaggle 2.2.4 and kagglesdk. It has not been compared with the live service.
"""

import re
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from carclf.demo.responses import ApiError, Upload, format_time, page

Json = dict[str, Any]
MODEL_METHODS = frozenset({
    "GetModel", "CreateModel", "GetModelInstance", "CreateModelInstance", "UpdateModelInstance",
    "CreateModelInstanceVersion", "ListModelInstanceVersions", "ListModelInstanceVersionFiles",
})  # fmt: skip


@dataclass
class VersionEntry:
    """A version as the server stores it: its notes and the content of its files by name."""

    notes: str
    files: dict[str, bytes]
    created: float = field(default_factory=time.time)
    listed_at: float = 0.0


@dataclass
class VariationEntry:
    """A variation of a model; version n is ``versions[n - 1]``."""

    license_name: str
    overview: str
    usage: str
    versions: list[VersionEntry]


class ModelBackend:
    """Models of one user; the caller holds a lock. ``uploads`` are the server's, by token."""

    def __init__(self, owner: str, uploads: dict[str, Upload]) -> None:
        self.owner = owner
        self.uploads = uploads
        self.models: dict[str, dict[str, VariationEntry]] = {}  # by slug, then by "framework/variation"
        self.list_lag_seconds = 0.0  # of new versions

    def handle_call(self, method: str, request: Json) -> Json:
        """Return the JSON response to one of MODEL_METHODS; raise ApiError where Kaggle responds with an error."""
        call = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower())
        result: Json = call(request)
        return result

    def _require_model(self, request: Json) -> dict[str, VariationEntry]:
        model = self.models.get(str(request.get("modelSlug")))
        if model is None or request.get("ownerSlug") != self.owner:
            raise ApiError(HTTPStatus.NOT_FOUND, "Model not found")
        return model

    def _require_variation(self, request: Json) -> VariationEntry:
        name = f"{request.get('framework')}/{request.get('instanceSlug')}"
        if (variation := self._require_model(request).get(name)) is None:
            raise ApiError(HTTPStatus.NOT_FOUND, "Model instance not found")
        return variation

    def _get_model(self, request: Json) -> Json:
        self._require_model(request)
        slug = request["modelSlug"]
        return {"id": 1, "ref": f"{self.owner}/{slug}", "slug": slug, "title": slug, "isPrivate": True}

    def _create_model(self, request: Json) -> Json:
        slug = str(request.get("slug") or "")
        if request.get("ownerSlug") != self.owner:
            raise ApiError(HTTPStatus.FORBIDDEN, "You do not have permission to create a model for this owner")
        if not slug or slug in self.models:
            raise ApiError(HTTPStatus.CONFLICT, "The slug is missing or in use")
        self.models[slug] = {}
        return self._created(slug)

    def _get_model_instance(self, request: Json) -> Json:
        variation = self._require_variation(request)
        return {"id": 1, "slug": request["instanceSlug"], "framework": request["framework"],
                "overview": variation.overview, "usage": variation.usage, "licenseName": variation.license_name,
                "versionNumber": len(self._listed(variation))}

    def _create_model_instance(self, request: Json) -> Json:
        model, body = self._require_model(request), request.get("body") or {}
        name = f"{body.get('framework')}/{body.get('instanceSlug')}"
        if name in model:
            raise ApiError(HTTPStatus.CONFLICT, "The slug is in use")
        if not body.get("licenseName"):
            raise ApiError(HTTPStatus.BAD_REQUEST, "The license is missing")
        version = self._new_version(body)
        model[name] = VariationEntry(body["licenseName"], body.get("overview", ""), body.get("usage", ""), [version])
        return self._created(str(request["modelSlug"]))

    def _update_model_instance(self, request: Json) -> Json:
        variation = self._require_variation(request)
        for name in str(request.get("updateMask") or "").split(","):
            if name not in ("overview", "usage"):
                raise ApiError(HTTPStatus.BAD_REQUEST, f"{name!r} cannot be updated here")
            setattr(variation, name, str(request.get(name) or ""))
        return self._created(str(request["modelSlug"]))

    def _create_model_instance_version(self, request: Json) -> Json:
        self._require_variation(request).versions.append(self._new_version(request.get("body") or {}))
        return self._created(str(request["modelSlug"]))

    def _list_model_instance_versions(self, request: Json) -> Json:
        listed = self._listed(self._require_variation(request))
        numbers, token = page(list(range(len(listed), 0, -1)), request)
        return {"versionList": {"versions": [{"id": number, "versionNumber": number} for number in numbers]},
                "nextPageToken": token}

    def _list_model_instance_version_files(self, request: Json) -> Json:
        listed, number = self._listed(self._require_variation(request)), int(request.get("versionNumber") or 0)
        if not 0 < number <= len(listed):
            raise ApiError(HTTPStatus.NOT_FOUND, "Model instance version not found")
        version = listed[number - 1]
        files, token = page(list(version.files.items()), request)
        date = format_time(version.created)
        return {"files": [{"name": name, "size": len(data), "creationDate": date} for name, data in files],
                "nextPageToken": token}

    def _listed(self, variation: VariationEntry) -> list[VersionEntry]:
        return [version for version in variation.versions if version.listed_at <= time.time()]

    def _new_version(self, body: Json) -> VersionEntry:
        files = {}
        for entry in body.get("files") or []:
            upload = self.uploads.get(str(entry.get("token")))
            if upload is None or upload.data is None:
                raise ApiError(HTTPStatus.BAD_REQUEST, "The upload is missing")
            files[upload.file_name] = upload.data
        if not files:
            raise ApiError(HTTPStatus.BAD_REQUEST, "A version needs files")
        now = time.time()
        return VersionEntry(str(body.get("versionNotes") or ""), files, now, now + self.list_lag_seconds)

    def _created(self, slug: str) -> Json:
        return {"id": 1, "ref": f"{self.owner}/{slug}", "url": f"https://www.kaggle.com/models/{self.owner}/{slug}"}
