"""From the bytes of an image file to pixels: decoding, color modes, letterboxing and hashes."""
