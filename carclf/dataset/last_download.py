"""The archive of a source's last download, and what the source contained then.

``sources/<hash>.json`` has the last download, whose files the next one shares. ``source_contents/<hash>.json`` has the
last one whose images a run trains on; a change since then starts a run.
"""

import json
from dataclasses import dataclass

from carclf.artifacts import Archive, fingerprint
from carclf.config.sources import Source
from carclf.errors import DataError
from carclf.os_errors import expand_home
from carclf.progress import log
from carclf.services.storage import Store


@dataclass(frozen=True)
class LastDownload:
    """The archive of a source, and a fingerprint of what the source contained when it was read.

    ``state`` is a fingerprint of everything that the archive of a folder or bucket was built from: a download with the
    same state reads nothing. It is empty for other sources.
    """

    archive: Archive
    contents: str
    state: str = ""


def source_id(source: Source) -> str:
    """Return the name under which a source is remembered; a path becomes absolute.

    Raises ConfigError that names data.source if a home folder in the path is unknown.
    """
    if source.kind in ("folder", "file"):
        return str(expand_home(source.name, "data.source").absolute())
    return f"kaggle://{source.name}" if source.kind == "dataset" else source.name


def find_last_download(source: Source, store: Store, *, of_run: bool = False) -> LastDownload | None:
    """Return the last download of a source; None if there is none, or if its archive is missing or damaged.

    ``of_run`` ignores those of experiments, re-evaluations and ``carclf inspect``.
    """
    if (pointer := store.read(_pointer_key(source, "source_contents" if of_run else "sources"))) is None:
        return None
    try:
        content = json.loads(pointer.data)
        if (archive := Archive.find(store, content["archive"])) is None:
            return None
        # Earlier versions wrote no contents.
        return LastDownload(archive, str(content.get("contents", "")), content["state"])
    except (ValueError, LookupError, TypeError, AttributeError, DataError) as error:
        log.warning("download: the earlier archive is damaged, reading everything reason=%s", error)
        return None


def remember_download(source: Source, download: LastDownload, store: Store, *, of_run: bool) -> None:
    """Let the next download of this source share the files of this one. Of two simultaneous writers, either may win.

    If it is ``of_run``, ``carclf source status`` reports changes since this download.
    """
    content = {"archive": download.archive.key, "source": source_id(source), "state": download.state,
               "contents": download.contents}
    for folder in ("sources", "source_contents") if of_run else ("sources",):
        store.write(_pointer_key(source, folder), json.dumps(content).encode())


def _pointer_key(source: Source, folder: str) -> str:
    return f"{folder}/{fingerprint(source=source_id(source))}.json"
