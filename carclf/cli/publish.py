"""``carclf publish``: publish the champion to the deployment's targets."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from carclf.cli.options import ResultOption, StoreOption
from carclf.cli.stages import SKIP_REMAINING
from carclf.errors import CarclfError, ConfigError, ServiceError
from carclf.formatting import printable
from carclf.progress import log
from carclf.publishing.publish import TARGETS, Published, publish
from carclf.redaction import redact_values
from carclf.services.storage import Store, require_store


def publish_command(
    store_url: StoreOption = "store",
    target: Annotated[
        str, typer.Option("--target", help=f"Publish only to this target: {', '.join(TARGETS)}.")
    ] = "",
    result: ResultOption = None,
) -> None:
    """Publish the champion to a folder or bucket, Kaggle Models and MLflow: to each that is configured, once."""
    if target and target not in TARGETS:
        raise ConfigError(f"Unknown target {target!r}. Use --target with one of {', '.join(TARGETS)}.")
    store = require_store(store_url)
    outcomes, errors = _publish_to_all(store, [target] if target else list(TARGETS))
    if result:
        result.write_text(json.dumps(redact_values([asdict(outcome) for outcome in outcomes])))
    for outcome in outcomes:
        print(printable(_format_line(outcome)))
    if errors:
        raise errors[0]
    if any(outcome.waiting for outcome in outcomes):
        raise typer.Exit(ServiceError.exit_status)
    if all(outcome.skip_reason for outcome in outcomes):
        raise typer.Exit(SKIP_REMAINING)


def _publish_to_all(store: Store, targets: list[str]) -> tuple[list[Published], list[CarclfError]]:
    """Publish to each target, also after errors; return the outcomes and the errors."""
    outcomes: list[Published] = []
    errors: list[CarclfError] = []
    for name in targets:
        try:
            outcomes.append(publish(store, name))
        except CarclfError as error:
            if errors:  # the first one is raised, and printed at the end
                log.error("publish: failed target=%s reason=%s", name, error)
            errors.append(error)
    return outcomes, errors


def _format_line(outcome: Published) -> str:
    note = " (published before)" if outcome.reused else ""
    text = f"skipped: {outcome.skip_reason}" if outcome.skip_reason else f"{outcome.location}{note}"
    return f"{outcome.target:<8} {f'waiting: {outcome.waiting}' if outcome.waiting else text}"
