"""Where a deployment publishes its champion, from environment variables."""

import os
from dataclasses import dataclass

FOLDER_ENV_VAR = "CARCLF_PUBLISH_FOLDER"
FORMATS_ENV_VAR = "CARCLF_PUBLISH_FORMATS"
KAGGLE_ENV_VAR = "CARCLF_PUBLISH_KAGGLE_MODEL"
LICENSE_ENV_VAR = "CARCLF_PUBLISH_KAGGLE_LICENSE"
DEFAULT_FORMATS = "keras,saved_model,litert"


@dataclass(frozen=True)
class PublishSettings:
    """The settings of a deployment; a target without a value is not configured.

    ``folder`` is a path or ``s3://bucket/prefix`` and gets ``formats``; ``kaggle_model`` is ``owner/model`` or
    ``owner/model/framework/variation``. A new variation on Kaggle gets the license ``kaggle_license``.
    """

    folder: str = ""
    formats: tuple[str, ...] = ()
    kaggle_model: str = ""
    kaggle_license: str = ""


def publish_settings() -> PublishSettings:
    """Return the settings that the environment contains."""
    formats = os.environ.get(FORMATS_ENV_VAR) or DEFAULT_FORMATS
    return PublishSettings(
        folder=os.environ.get(FOLDER_ENV_VAR, "").strip(),
        formats=tuple(name.strip() for name in formats.split(",")),
        kaggle_model=os.environ.get(KAGGLE_ENV_VAR, "").strip(),
        kaggle_license=os.environ.get(LICENSE_ENV_VAR, "").strip(),
    )
