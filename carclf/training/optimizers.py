"""AdamW with a learning rate per block, blocks that start to train later, and a moving average of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class BlockRate:
    """The factor of a block's learning rate, and the step at which the block starts to train."""

    factor: float
    start_step: int


FULL_RATE = BlockRate(1.0, 0)


class BlockwiseAdamW(keras.optimizers.AdamW):  # type: ignore[misc]  # keras is untyped
    """Decoupled weight decay (Loshchilov & Hutter 2019) on kernels only; layer-wise rates as in ULMFiT (2018).

    One optimizer serves the whole fine-tuning: a block that starts later needs no new ``compile``, which would lose
    the state of all other blocks. ``scale`` multiplies every rate and may be assigned during training.
    """

    def __init__(self, learning_rate: Any, *, weight_decay: float, global_clipnorm: float, ema_momentum: float) -> None:
        super().__init__(
            learning_rate, weight_decay=weight_decay, global_clipnorm=global_clipnorm, use_ema=ema_momentum > 0,
            ema_momentum=ema_momentum or 0.99, ema_overwrite_frequency=None,
        )
        self.scale: Any = None
        self._rates: dict[Any, BlockRate] = {}

    @property
    def moving_averages(self) -> list[Any]:
        """The moving averages of the trainable variables, in the same order."""
        return list(self._model_variables_moving_average)

    def build_for(self, model: keras.Model, blocks: Sequence[tuple[Sequence[Any], BlockRate]]) -> None:
        """Create the state for the model's trainable variables; layers in no block have the full rate from step 0."""
        self.build(model.trainable_variables)
        self._rates = {
            self._var_key(variable): rate  # by key: TensorFlow passes its native variables, which have no path
            for layers, rate in blocks
            for layer in layers
            for variable in layer.trainable_variables
        }
        self.built = True

    def build(self, variables: Any) -> None:
        """Create the optimizer's variables, ``scale`` among them."""
        if not self.built:
            self.scale = self.add_variable((), initializer="ones", name="scale")
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable with its block's rate, and decay it if it is a kernel."""
        block = self._rates.get(self._var_key(variable), FULL_RATE)
        factor: Any = block.factor
        if block.start_step:
            factor = factor * keras.ops.cast(self.iterations >= block.start_step, "float32")
        rate = keras.ops.cast(learning_rate * (factor * self.scale), variable.dtype)
        if len(variable.shape) > 1:  # biases and the scales of normalization layers do not decay
            self.assign_sub(variable, variable * (self.weight_decay * rate))
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: ``update_step`` decays with each block's rate."""

    def finalize_variable_values(self, var_list: Any) -> None:
        """Do nothing: Keras would put the average into the model after each ``fit``; use ``ema_weights`` instead."""
