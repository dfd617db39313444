"""``carclf demo-server``: serve a competition on this machine with Kaggle's protocol."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Optional

import typer

from carclf.temporary import temporary_folder

DAILY_LIMIT = 1000  # far above Kaggle's, because demos are repeated


def demo_server(
    data: Annotated[
        Optional[Path], typer.Option(help="A folder with data in any layout; by default rendered cars.")
    ] = None,
    truth: Annotated[
        Optional[Path], typer.Option(help="Score submissions against this CSV with an id and a class per row.")
    ] = None,
    holdout: Annotated[
        Optional[float], typer.Option(help="Use this fraction of the training images as the test images.")
    ] = None,
    port: Annotated[int, typer.Option(help="The port to listen on; 0 chooses a free one.")] = 0,
    host: Annotated[str, typer.Option(help="The host to listen on, by the name that clients use.")] = "127.0.0.1",
    slug: Annotated[str, typer.Option(help="The name of the competition.")] = "demo-cars",
    work_dir: Annotated[
        Optional[Path],
        typer.Option(help="Keep the archive and the submissions in this folder; by default a temporary one."),
    ] = None,
    daily_limit: Annotated[
        int, typer.Option(min=0, envvar="CARCLF_DEMO_DAILY_LIMIT", help="Submissions that are accepted per day.")
    ] = DAILY_LIMIT,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Serve the small competitions and datasets of docs/layouts.md instead.")
    ] = False,
) -> None:
    """Serve a car competition with Kaggle's protocol, by default on a loopback port, until it is stopped."""
    from carclf.demo.serve import ServeOptions, serve  # imports pandas, which takes half the time of a short command

    with nullcontext(work_dir) if work_dir else temporary_folder() as folder:
        serve(ServeOptions(data, truth, holdout, slug, folder, (host, port), daily_limit, gallery))
