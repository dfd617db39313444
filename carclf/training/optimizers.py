"""AdamW with a rate for each block of the backbone, blocks that join later, and an average of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class BlockRate:
    """What a block's learning rate is multiplied by, and the step from which it trains."""

    factor: float
    start_step: int


class BlockwiseAdamW(keras.optimizers.AdamW):  # type: ignore[misc]  # keras is untyped
    """Decoupled weight decay (Loshchilov & Hutter 2019) on kernels only; layer-wise rates as in ULMFiT (2018).

    One optimizer from the first step to the last: a block that joins later needs no new ``compile``,
    which would lose the state of all others. ``scale`` multiplies every rate and can be set while training.
    """

    def __init__(self, learning_rate: Any, *, weight_decay: float, global_clipnorm: float, ema_momentum: float) -> None:
        super().__init__(
            learning_rate, weight_decay=weight_decay, global_clipnorm=global_clipnorm,
            use_ema=ema_momentum > 0, ema_momentum=ema_momentum or 0.99, ema_overwrite_frequency=None,
        )
        self._rates: dict[Any, BlockRate] = {}

    def build_for(self, model: keras.Model, groups: Sequence[tuple[Sequence[Any], BlockRate]]) -> None:
        """Make the state for the model's trainable variables; layers in no group have the full rate from step 0."""
        self.build(model.trainable_variables)
        self._rates = {
            self._var_key(variable): rate  # TensorFlow hands over its own variables, which have no path
            for layers, rate in groups for layer in layers for variable in layer.trainable_variables
        }
        self.built = True

    def build(self, variables: Any) -> None:
        if not self.built:
            self.scale = self.add_variable((), initializer="ones", name="scale")
        super().build(variables)

    def _factor(self, variable: Any) -> Any:
        rate = self._rates.get(self._var_key(variable), BlockRate(1.0, 0))
        if not rate.start_step:
            return rate.factor * self.scale
        joined = keras.ops.cast(self.iterations >= rate.start_step, "float32")
        return rate.factor * joined * self.scale

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = keras.ops.cast(learning_rate * self._factor(variable), variable.dtype)
        if len(variable.shape) > 1:  # neither biases nor the scales of normalisations decay
            self.assign_sub(variable, variable * (self.weight_decay * rate))
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing here: ``update_step`` decays with each block's own rate."""

    def finalize_variable_values(self, var_list: Any) -> None:
        """Keras would put the average into the model at the end of each ``fit``: the loop does so where it wants."""
