"""How the learning rate moves over the steps."""

import keras


def warmup_cosine(
    peak: float, num_steps: int, warmup_fraction: float
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear from 0 to the peak, then a half cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    warmup = int(num_steps * warmup_fraction)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else peak, max(1, num_steps - warmup), warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def phase_of_epoch(epochs: int, num_phases: int) -> list[int]:
    """The phase, from 0, of each epoch: phases of equal length but for rounding, none of them empty."""
    return [epoch * num_phases // epochs for epoch in range(epochs)]
