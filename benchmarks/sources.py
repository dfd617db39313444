"""Seconds and peak memory to list, pack, extract and detect many small files; what is read from a bucket with new ones.

Each step is a process of its own, as a stage is. The images are 8 x 8 PNG files in 100 class folders.
"""

import argparse
import importlib.util
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from moto.server import ThreadedMotoServer
from PIL import Image

from benchmarks.stage_memory import peak
from carclf.artifacts import Archive, StageContext
from carclf.config import load_config
from carclf.dataset.archives import extract_images
from carclf.dataset.listing import Folder, list_source
from carclf.services.storage import open_store
from carclf.services.storage.bucket import Bucket, BucketObject
from carclf.services.storage.s3 import S3Store
from carclf.stages.download import download

NUM_CLASSES, NUM_NEW = 100, 100
STEPS = ("list", "pack", "pack_new", "extract", "detect")
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def png(seed: int) -> bytes:
    """Return a small image that differs from those of other seeds."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def name(number: int) -> str:
    """Return the path of an image in the source."""
    return f"class {number % NUM_CLASSES}/{number}.png"


def write_images(folder: Path, numbers: range) -> None:
    """Write the images with these numbers into their class folders."""
    for number in numbers:
        path = folder / name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def run_step(step: str, work: Path) -> None:
    """Run a step in this process and write its seconds to a file."""
    config = load_config("demo", {"data.source": str(work / "source")})
    context = StageContext(open_store(work / "store"), config)
    if step in ("extract", "detect"):  # what they need is there already
        (key,) = (work / "key").read_text().split()
        archive = Archive.require(context.store, key)
    folder = extract_images(archive, context.store) if step == "detect" else None
    started = time.monotonic()
    if step == "list":
        list_source(Folder(str(work / "source")))
    elif step == "extract":
        extract_images(archive, context.store)
    elif folder is not None:
        from carclf.dataset.detection.detect import detect

        detect(folder, config)
    else:
        archive, _ = download(context)
        (work / "key").write_text(archive.key)
    (work / f"{step}.seconds").write_text(str(time.monotonic() - started))


def measure_folder(num: int, work: Path) -> pd.DataFrame:
    """Return seconds and MB of each step."""
    write_images(work / "source", range(num))
    environment = dict(os.environ) | {"CARCLF_CACHE": str(work / "cache")}
    rows = {}
    for step in STEPS:
        if step == "detect" and importlib.util.find_spec("carclf.dataset.detection.detect") is None:
            continue
        if step == "pack_new":
            write_images(work / "source", range(num, num + NUM_NEW))
        megabytes = peak([sys.executable, "-m", "benchmarks.sources", "--step", step, "--work", str(work)], environment)
        rows[step] = {"seconds": float((work / f"{step}.seconds").read_text()), "peak_mb": megabytes}
    return pd.DataFrame.from_dict(rows, orient="index")


def measure_bucket(num: int, work: Path) -> pd.DataFrame:
    """Return seconds, MB, requests and bytes of downloading a bucket with NUM_NEW new objects, and unchanged.

    moto's server in this process has the bucket. The first objects are written into its memory and read from there,
    because 100,000 requests of each kind take it an hour; only the listing is requested. Then each download is a
    process of its own and requests everything.
    """
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket("images", AWS["AWS_DEFAULT_REGION"])

    def put(numbers: range) -> None:
        for number in numbers:
            backend.put_object("images", f"all/{name(number)}", png(number), disable_notification=True)

    def read_from_memory(bucket: Bucket, entry: BucketObject, path: Path) -> None:
        path.write_bytes(backend.get_object("images", bucket.prefix + entry.path).value)

    os.environ["CARCLF_CACHE"] = str(work / "cache")
    put(range(num))
    with patch.object(Bucket, "fetch", read_from_memory):
        download(bucket_context(work))
    rows = {}
    for title, numbers in (("new", range(num, num + NUM_NEW)), ("unchanged", range(0))):
        put(numbers)
        command = [sys.executable, "-m", "benchmarks.sources", "--step", "bucket", "--work", str(work)]
        megabytes = peak(command, dict(os.environ))
        rows[title] = json.loads((work / "bucket.json").read_text()) | {"peak_mb": megabytes}
    return pd.DataFrame.from_dict(rows, orient="index")


def bucket_context(work: Path) -> StageContext:
    """Return the context of a run whose source is the bucket."""
    return StageContext(open_store(work / "store"), load_config("demo", {"data.source": "s3://images/all"}))


def download_bucket(work: Path) -> None:
    """Download the bucket in this process; write seconds, requests and the bytes of the responses' bodies to a file."""
    counts = dict.fromkeys(("list_requests", "list_bytes", "object_requests", "object_bytes"), 0)

    def count(response_dict: dict[str, Any], event_name: str, **_: object) -> None:
        kind = "list" if event_name.endswith("ListObjectsV2") else "object"
        counts[f"{kind}_requests"] += 1
        counts[f"{kind}_bytes"] += int(response_dict["headers"]["Content-Length"])

    def connect(bucket: Bucket, url: str) -> None:
        S3Store.__init__(bucket, url)
        for operation in ("ListObjectsV2", "GetObject"):
            bucket._client.meta.events.register(f"response-received.s3.{operation}", count)

    started = time.monotonic()
    with patch.object(Bucket, "__init__", connect):
        download(bucket_context(work))
    (work / "bucket.json").write_text(json.dumps({"seconds": time.monotonic() - started} | counts))


def main() -> None:
    """Print the table of the folder and the numbers of the bucket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--step", choices=[*STEPS, "bucket"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "bucket":
        download_bucket(arguments.work)
        return
    if arguments.step:
        run_step(arguments.step, arguments.work)
        return
    num = 10_000 if arguments.quick else 100_000
    with tempfile.TemporaryDirectory() as folder:
        print(measure_folder(num, Path(folder)).round(1).to_string())
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ.update(AWS, AWS_ENDPOINT_URL="http://{}:{}".format(*server.get_host_and_port()))
    with tempfile.TemporaryDirectory() as folder:
        print(measure_bucket(num, Path(folder)).round(1).to_string())
    server.stop()


if __name__ == "__main__":
    main()
