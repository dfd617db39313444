"""Generated photographs for benchmarks: 640x480 JPEGs with the spectrum, and thus the file size, of real ones."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

SPECTRUM_EXPONENT = 1.2
HEIGHT = 480
WIDTH = 640
QUALITY = 90


def write_images(folder: Path, num: int, *, num_classes: int = 10) -> pd.DataFrame:
    """Write ``num`` JPEGs of about 60 kB and return their index: path, class_index, problem."""
    random = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH)[None])
    frequencies[0, 0] = 1
    rows = []
    for number in range(num):
        noise = np.fft.fft2(random.standard_normal((3, HEIGHT, WIDTH))) / frequencies**SPECTRUM_EXPONENT
        pixels = np.real(np.fft.ifft2(noise)).transpose(1, 2, 0)
        low, high = np.percentile(pixels, [1, 99])
        pixels = np.clip((pixels - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        rows.append({"path": f"{number}.jpg", "class_index": number % num_classes, "problem": ""})
    return pd.DataFrame(rows)
