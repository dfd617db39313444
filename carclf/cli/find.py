"""``carclf find-lr`` and ``carclf find-batch-size``: choose a fine-tuning setting by short trials."""

from pathlib import Path
from typing import Annotated

import typer

from carclf.cli.options import RunOption, StoreOption, validate_parent_folder
from carclf.runs.run import find_setting
from carclf.runs.run_names import load_run
from carclf.services.storage import require_store

PlotOption = Annotated[
    Path, typer.Option("--plot", help="Write the plot of the trials to this file.", callback=validate_parent_folder)
]


def find_lr(run: RunOption, store_url: StoreOption = "store", plot: PlotOption = Path("find-lr.png")) -> None:
    """Find the learning rate of fine-tuning with a range test. The run must have finished train_head."""
    _find("learning_rate", run, store_url, plot)


def find_batch_size(
    run: RunOption, store_url: StoreOption = "store", plot: PlotOption = Path("find-batch-size.png")
) -> None:
    """Find the fastest batch size of fine-tuning that fits into memory. The run must have finished train_head."""
    _find("batch_size", run, store_url, plot)


def _find(name: str, run: str, store_url: str, plot: Path) -> None:
    from carclf.training.auto_settings import plot_trials
    from carclf.training.fine_tuning import TRIAL_BATCH_SIZE

    loaded = load_run(run, require_store(store_url))
    trials, best = find_setting(loaded, name)
    print(trials.to_string(index=False))
    plot_trials(trials, best, plot)
    if name == "batch_size":
        print(f"largest batch size that fits into memory: {trials['batch_size'].max()}")
    # A learning rate holds for one batch size only.
    batch_size = loaded.config.fine_tune.batch_size or TRIAL_BATCH_SIZE
    pair = f" fine_tune.batch_size={batch_size}" if name == "learning_rate" else ""
    print(f"fine_tune.{name}={best:.3g}{pair}   (plot: {plot})")
