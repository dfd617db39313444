"""``data.source``: where the images come from."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from carclf.errors import ConfigError
from carclf.formatting import truncate

SLUG = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_DATASET = re.compile(rf"kaggle://({SLUG}/{SLUG})(?:/([1-9][0-9]{{0,8}}))?")
_KAGGLE_URL = re.compile(rf"https?://(?:www\.)?kaggle\.com/(?:(?:competitions|c)/({SLUG})|datasets/({SLUG}/{SLUG})).*")
_BUCKET = re.compile(r"s3://[^/]+(/.*)?")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".zip.001",
                    ".7z.001")


@dataclass(frozen=True)
class Source:
    """The source of the images.

    ``name`` is the slug of a competition, the owner and slug of a dataset, a URL, or a path. ``version`` is the version
    of a dataset; 0 is the newest one.
    """

    kind: Literal["competition", "dataset", "bucket", "folder", "file"]
    name: str
    version: int = 0

    @property
    def title(self) -> str:
        """The last part of the name: a slug, or the name of a folder, a file or a prefix."""
        return PurePosixPath(self.name).name


def require_source(text: str) -> Source:
    """Return the source that ``data.source`` names.

    Raises ConfigError if it is a competition's slug and also the name of a folder or a file in the working directory.
    """
    source = parse_source(text)
    if source.kind == "competition" and Path(text).exists():
        raise ConfigError(f"data.source: {text} is a competition's slug; for the folder write ./{text}. For the "
                          f"competition, run the command in a folder without {text}.")
    return source


def parse_source(text: str) -> Source:
    """Return the source that ``data.source`` names. A path contains a slash or is the name of an archive.

    Raises ValueError if the text has none of the forms.
    """
    if re.fullmatch(SLUG, text):
        return Source("competition", text)
    if match := _DATASET.fullmatch(text):
        return Source("dataset", match[1], int(match[2] or 0))
    if _BUCKET.fullmatch(text):
        if text.lower().endswith(ARCHIVE_SUFFIXES):
            prefix = text.rpartition("/")[0]
            raise ValueError(f"a single archive in a bucket is not read; give the prefix that contains it, {prefix}")
        return Source("bucket", text.rstrip("/"))
    if "://" in text or not text.strip():
        page = _KAGGLE_URL.fullmatch(text)
        example = f"; for this page write {page[1] or f'kaggle://{page[2]}'}" if page else ""
        raise ValueError("expected a competition's slug, kaggle://owner/dataset, kaggle://owner/dataset/version, "
                         f"s3://bucket/prefix, or a path such as ./photos{example}")
    if text.lower().endswith(ARCHIVE_SUFFIXES):
        return Source("file", text)
    if "/" not in text:
        path = shlex.quote(f"./{truncate(text, 50)}")
        raise ValueError(f"expected a competition's slug or a path; for a folder write {path}")
    return Source("folder", text)
