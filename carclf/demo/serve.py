"""``carclf demo-server``: serve a rendered or a given competition until a signal arrives."""

import os
import re
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from carclf.artifacts import atomic_folder
from carclf.demo.competition import Competition, ServedDataset, open_competition
from carclf.demo.gallery.entries import ENTRIES
from carclf.demo.gallery.served import serve_entry
from carclf.demo.rendering import render_competition
from carclf.demo.server import KEY_ENV_VAR, DemoServer
from carclf.errors import ConfigError

SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class ServeOptions:
    """Options of ``carclf demo-server``. Without ``data``, it renders a competition, with ``gallery`` all of them."""

    data: Path | None
    truth: Path | None
    holdout: float | None
    slug: str
    work: Path
    address: tuple[str, int]
    daily_limit: int
    gallery: bool = False


def serve(options: ServeOptions) -> None:
    """Print a line with the URL, then serve until SIGINT or SIGTERM.

    The folder ``work`` keeps the archive and the submissions for the next server.
    """
    if not SLUG.fullmatch(options.slug):
        raise ConfigError(f"Invalid slug {options.slug!r}: use lower-case letters, digits and hyphens.")
    try:
        options.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Cannot create {options.work}: {error.strerror}. Give another --work-dir.") from error
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    competition, *others = _open(options)
    submissions_path = options.work / f"{options.slug}-submissions.json"
    with DemoServer(competition, *others, address=options.address, daily_limit=options.daily_limit,
                    submissions_path=submissions_path) as server:
        # A given key is not printed: it would remain in a log.
        key = f"the value of {KEY_ENV_VAR}" if os.environ.get(KEY_ENV_VAR) else server.token
        content = f"gallery of {len(ENTRIES)}" if options.gallery else f"competition '{options.slug}'"
        print(f"carclf demo-server: {content} at {server.url} (user demo, key {key})", flush=True)
        stop.wait()


def _open(options: ServeOptions) -> tuple[Competition, *tuple[Competition | ServedDataset, ...]]:
    """Return what is served; the first is a competition."""
    if options.gallery:
        served = [serve_entry(entry, options.work) for entry in ENTRIES.values()]
        first, *others = sorted(served, key=lambda item: isinstance(item, ServedDataset))
        if isinstance(first, Competition):
            return first, *others
    data, truth = _data_and_truth(options)
    return open_competition(data, slug=options.slug, work=options.work, truth=truth, holdout=options.holdout),


def _data_and_truth(options: ServeOptions) -> tuple[Path, Path | None]:
    if options.data is not None:
        return options.data, options.truth
    rendered = options.work / "rendered-v2"
    with atomic_folder(rendered) as folder:
        if folder is not None:
            render_competition(folder)
    return rendered, options.truth if options.truth or options.holdout is not None else rendered / "truth.csv"
