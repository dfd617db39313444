"""Seconds and peak memory to list, pack, extract and detect many small files; bytes read from a bucket with a few new.

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

import boto3
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
from carclf.services.storage.bucket import Bucket
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


def measure_bucket(num: int, work: Path) -> dict[str, float]:
    """Return the numbers of objects and bytes that are read from a bucket at first, and when NUM_NEW are new."""
    read: list[int] = []
    fetch = Bucket.fetch

    def count(bucket: Bucket, entry: object, path: Path) -> None:
        fetch(bucket, entry, path)
        read.append(path.stat().st_size)

    Bucket.fetch = count
    os.environ["CARCLF_CACHE"] = str(work / "cache")
    client = boto3.client("s3")
    client.create_bucket(Bucket="images")
    context = StageContext(open_store(work / "store"), load_config("demo", {"data.source": "s3://images/all"}))
    metrics: dict[str, float] = {}
    for title, numbers in (("all", range(num)), ("new", range(num, num + NUM_NEW)), ("unchanged", range(0))):
        for number in numbers:
            client.put_object(Bucket="images", Key=f"all/{name(number)}", Body=png(number))
        read.clear()
        started = time.monotonic()
        download(context)
        metrics |= {f"{title}_objects": len(read), f"{title}_bytes": sum(read),
                    f"{title}_seconds": round(time.monotonic() - started, 1)}
    return metrics


def main() -> None:
    """Print the table of the folder and the numbers of the bucket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
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
        print(json.dumps(measure_bucket(num, Path(folder))))
    server.stop()


if __name__ == "__main__":
    main()
