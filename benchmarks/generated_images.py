"""Generated photographs for measurements: 640x480 JPEGs with the spectrum, and so the size, of real ones."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd


def write_images(
    folder: Path, num: int, *, height: int = 480, width: int = 640, num_classes: int = 10
) -> pd.DataFrame:
    """Write ``num`` JPEGs (about 60 kB each) and return their index: path, label, problem."""
    random = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequencies[0, 0] = 1
    rows = []
    for number in range(num):
        noise = np.fft.fft2(random.standard_normal((3, height, width))) / frequencies**1.2
        pixels = np.real(np.fft.ifft2(noise)).transpose(1, 2, 0)
        low, high = np.percentile(pixels, [1, 99])
        pixels = np.clip((pixels - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        rows.append({"path": f"{number}.jpg", "label": number % num_classes, "problem": ""})
    return pd.DataFrame(rows)
