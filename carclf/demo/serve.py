"""``carclf demo-server``: serve a rendered or a given competition until a signal comes."""

import re
import signal
import threading
from pathlib import Path

from carclf.artifacts import atomic_folder
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.errors import ConfigError

SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")


# The demo is run again and again: its limit is not Kaggle's.
DAILY_LIMIT = 1000


def serve(
    data: Path | None, truth: Path | None, holdout: float | None, address: tuple[str, int], slug: str,
    work: Path, daily_limit: int = DAILY_LIMIT,
) -> None:
    """Print one line with the address, then serve until SIGINT or SIGTERM.

    The folder ``work`` keeps the archive and the submissions, for the next server in it.
    """
    if not SLUG.fullmatch(slug):
        raise ConfigError(f"{slug!r} is no slug: use small letters, digits and hyphens.")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{work} cannot be made: {error.strerror}. Give another --work-dir.") from error
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if data is None:
        data = work / "rendered-v2"
        with atomic_folder(data) as folder:
            if folder is not None:
                render_competition(folder)
        truth = truth if truth or holdout is not None else data / "truth.csv"
    competition = open_competition(data, slug=slug, work=work, truth=truth, holdout=holdout)
    host, port = address
    memory = work / f"{slug}-submissions.json"
    with DemoServer(competition, host=host, port=port, daily_limit=daily_limit, memory=memory) as server:
        print(f"carclf demo-server: competition '{slug}' at {server.url} (user demo, key demo-key)", flush=True)
        stop.wait()
