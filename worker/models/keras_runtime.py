"""Executes Keras models: the one file that knows TensorFlow.

Importing it starts TensorFlow, so only a model process does. It calms the start-up log, and lets a GPU's
memory grow as needed so that several model processes can share the GPU.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from shoal.wire import ModelCard
from worker.models.batch_plan import plan, warmed_sizes
from worker.models.runtime import Array

__all__ = ["Answer", "KerasRuntime", "keras", "use_threads"]

# TensorFlow writes its first lines before its own log level applies, so no setting silences them.
_CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} ")


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Hold back what is written to standard error, then let all of it through but TensorFlow's chatter."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with _quiet_start():
    import keras  # type: ignore[import-untyped, import-not-found, unused-ignore]
    import tensorflow as tf  # type: ignore[import-untyped, import-not-found, unused-ignore]

    for _gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(_gpu, True)

Answer = Callable[[Array, list[Mapping[str, Any]]], list[dict[str, Any]]]

# An execution is timed this often, and the quickest counts: what disturbs a measurement only ever adds.
TIMINGS = 3


def use_threads(threads: int) -> None:
    """Execute with so many threads; 0 leaves the choice, all cores, to TensorFlow.

    Measured with EfficientNet-Lite0 on 2 cores: one thread takes 10.8, 10.1 and 11.3 CPU milliseconds an image
    at batches of 1, 8 and 32, two threads 15.8, 11.1 and 12.0, but a batch of 8 then takes 48 ms, not 81.
    Raises ``RuntimeError`` when TensorFlow has already executed something with another number.
    """
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


class KerasRuntime:
    """A Keras model with one image input and one output tensor, as the ``Runtime`` of a model process.

    ``answer`` turns the output of n images, and their options, into n JSON-ready answers. The weights become
    constants of one compiled function, which lets TensorFlow fold batch normalisation into the convolutions:
    a quarter less CPU for an image than with variables (11.1 against 14.5 ms at a batch of 8), at the cost of
    weights that cannot change any more. XLA is not used: on a CPU it is ten times slower.
    """

    def __init__(self, model: Any, card: ModelCard, answer: Answer) -> None:
        self.card = card
        self._answer = answer
        self._shape = (card.input.height, card.input.width, 3)
        self._execute = _compile(model, self._shape)
        # Until the warm-up has measured them, costs under which no plan pads.
        self._costs: dict[int, float] = {size: 1.0 + size for size in warmed_sizes(card.max_batch_size)}
        self._plans: dict[int, tuple[int, ...]] = {}

    def __repr__(self) -> str:
        costs = ", ".join(f"{size}: {cost * 1000:.1f} ms" for size, cost in self._costs.items())
        return f"<KerasRuntime {self.card.key} {costs}>"

    def warm_up(self) -> None:
        """Execute every batch size that will be used, and measure what each costs."""
        images = {size: np.zeros((size, *self._shape), np.uint8) for size in self._costs}
        for part in images.values():
            self._execute(part)
        # Size by size would let one short disturbance make one size look dear; round by round it hits all.
        rounds = [{size: self._seconds(part) for size, part in images.items()} for _ in range(TIMINGS)]
        self._costs = {size: min(timed[size] for timed in rounds) for size in images}
        self._plans.clear()

    def run(self, batch: Array, options: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """See ``Runtime.run``. ``ValueError`` for a batch that is not of the card's shape."""
        most = self.card.max_batch_size
        if batch.shape[1:] != self._shape or not 1 <= len(batch) <= most or len(batch) != len(options):
            raise ValueError(f"a batch of shape {batch.shape} does not fit (1…{most}, *{self._shape})")
        return self._answer(self._outputs(batch), options)

    def _outputs(self, batch: Array) -> Array:
        """The model's output for n images, executed in the cheapest parts."""
        images = len(batch)
        if images not in self._plans:
            self._plans[images] = plan(images, self._costs)
        outputs = []
        start = 0
        for size in self._plans[images]:
            outputs.append(self._execute(_padded(batch[start : start + size], size)))
            start += size
        return outputs[0][:images] if len(outputs) == 1 else np.concatenate(outputs)[:images]

    def _seconds(self, images: Array) -> float:
        started = time.perf_counter()
        self._execute(images)
        return time.perf_counter() - started


def _padded(part: Array, size: int) -> Array:
    if len(part) == size:
        return part
    return np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])


def _compile(model: Any, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """A function from uint8 (n, height, width, 3) to the model's output as a NumPy array."""
    if keras.config.backend() != "tensorflow":
        raise RuntimeError(f"Keras runs on {keras.config.backend()}: unset KERAS_BACKEND to serve with TensorFlow")
    trained = [variable.numpy() for variable in model.trainable_variables]
    fixed = [variable.numpy() for variable in model.non_trainable_variables]

    def call(images: Any) -> Any:
        return model.stateless_call(trained, fixed, images, training=False)[0]

    compiled = tf.function(call, input_signature=[tf.TensorSpec((None, *shape), tf.uint8)], autograph=False)

    def execute(images: Array) -> Array:
        output: Array = compiled(images).numpy()
        return output

    return execute
