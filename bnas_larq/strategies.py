"""`tf.distribute`: the strategies that searches and trainings run under, and what they need in a
step to compute on several replicas what one device would with the same global batch.

`batch_size` is always the global batch. Each replica takes an equal part of it, computes the mean
loss of its part, and the gradients' mean over the replicas is that of the whole batch. Gradients
are clipped and decayed once they are aggregated. BatchNorm normalises each replica's part by that
part's own statistics; a moving average is the mean of the replicas'.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, nearest, one_line

#: What commands and `Run.create` accept.
STRATEGIES = ("mirrored", "multi-worker", "tpu")

Strategy = tf.distribute.Strategy


# -- making one ------------------------------------------------------------------------------------


def make_strategy(name: str) -> Strategy:
    """The strategy of a name; to be made before TensorFlow has computed anything.

    Args:
        name: `"mirrored"`: all GPUs of this machine, or its logical CPUs without a GPU;
            `"multi-worker"`: the processes that the variable TF_CONFIG names, each with all its
            GPUs; `"tpu"`: the TPU that the variable TPU_NAME or this virtual machine has.

    Raises:
        BnasLarqError: an unknown name, or devices that are not there.

    Example:
        >>> make_strategy("mirrored").num_replicas_in_sync
        1
    """
    if name not in STRATEGIES:
        raise BnasLarqError(
            "A strategy is 'mirrored', 'multi-worker' or 'tpu'. "
            f"Received: {name!r}; {nearest(str(name), STRATEGIES)}"
        )
    make = {"mirrored": _mirrored, "multi-worker": _multi_worker, "tpu": _tpu}[name]
    return make()


def _mirrored() -> Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker() -> Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        cluster = resolver.cluster_spec().as_dict()
        known = resolver.task_type in cluster and resolver.task_id is not None
    except ValueError as error:
        raise BnasLarqError(
            f"TF_CONFIG holds a cluster and a task as JSON. Received: {one_line(error)}."
        ) from error
    if not known or set(cluster) - {"chief", "worker"}:
        raise BnasLarqError(
            "The strategy multi-worker needs the addresses of all processes, and which of them "
            f"this one is. Received: {cluster or 'no cluster'} in TF_CONFIG. Set it, for example: "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}.'
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except RuntimeError as error:
        raise BnasLarqError(
            "The strategy multi-worker is made before TensorFlow computes anything. "
            f"Received: {one_line(error)}. Make it first, in a new process."
        ) from error


def _tpu() -> Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        raise BnasLarqError(
            "The strategy tpu needs a TPU, named by TPU_NAME or of this machine. "
            f"Received: {one_line(error)[:200]}. Start one, or use another strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def set_gpu_memory(memory: str | int) -> None:
    """How much memory this process takes of each GPU, otherwise all of it; to be set before
    TensorFlow has computed anything.

    Args:
        memory: `"growth"`: as much as is needed, more and more; or a limit in MB (10⁶ bytes).

    Raises:
        BnasLarqError: another value, no GPU, or too late.
    """
    if memory != "growth" and not (str(memory).isdecimal() and int(memory) > 0):
        raise BnasLarqError(
            f"The memory of GPUs is 'growth' or a limit in MB. Received: {memory!r}. Use growth."
        )
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise BnasLarqError(
            "Only a GPU's memory can be set. Received: no GPU that TensorFlow sees. "
            "`bnas-larq doctor` lists devices; omit it on CPUs."
        )
    try:
        for gpu in gpus:
            if memory == "growth":
                tf.config.experimental.set_memory_growth(gpu, True)
            else:
                limit = int(memory) * 10**6 // 2**20  # in TensorFlow's MiB
                one = tf.config.LogicalDeviceConfiguration(memory_limit=limit)
                tf.config.set_logical_device_configuration(gpu, [one])
    except RuntimeError as error:
        raise BnasLarqError(
            "The memory of GPUs is set before TensorFlow computes anything. "
            f"Received: {one_line(error)}. Set it first, in a new process."
        ) from error


def gpu_of_worker(name: str, count: int) -> int:
    """The number, from 0 on, of the GPU among `count` that a worker of this name takes: workers
    numbered one after the other take one each, and more of them share in turn.

    Raises:
        BnasLarqError: several GPUs, and no number at the end of the name.

    Example:
        >>> [gpu_of_worker(f"worker-{number}", 2) for number in (1, 2, 3)]
        [0, 1, 0]
    """
    number = re.search("[0-9]{1,9}$", name)
    if count > 1 and number is None:
        raise BnasLarqError(
            "The number at the end of a worker's name chooses its GPU. "
            f"Received: {name!r} for {count} GPUs. "
            "Name workers worker-1, worker-2, …, or set CUDA_VISIBLE_DEVICES to one GPU."
        )
    return (int(number[0]) - 1) % count if number else 0


def use_gpu_of_worker(name: str | None) -> None:
    """From now on use only the GPU of a worker, see `gpu_of_worker`, of those that
    CUDA_VISIBLE_DEVICES leaves; with None no GPU. Before TensorFlow has computed anything."""
    gpus = tf.config.list_physical_devices("GPU")
    own = [] if name is None or not gpus else [gpus[gpu_of_worker(name, len(gpus))]]
    tf.config.set_visible_devices(own, "GPU")


def scope_of(strategy: Strategy | None) -> contextlib.AbstractContextManager[Any]:
    """The scope in which models are made and trained; of None an empty one."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def check_batch(batch_size: int, strategy: Strategy | None) -> None:
    """Raise BnasLarqError for a global batch that the replicas cannot share equally."""
    count = 1 if strategy is None else strategy.num_replicas_in_sync
    if batch_size % count:
        raise BnasLarqError(
            "All replicas take equal parts of a batch. "
            f"Received: batch_size {batch_size} for {count} replicas. "
            f"Use {-(-batch_size // count) * count}."
        )


# -- the processes of a strategy -------------------------------------------------------------------


def is_chief(strategy: Strategy | None) -> bool:
    """Whether this process writes what the strategy's processes find out; a single one does."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict()
    first = "chief" not in cluster and resolver.task_id == 0
    return not cluster or resolver.task_type == "chief" or first


def wait_for_all(strategy: Strategy | None) -> None:
    """Return when all processes of the strategy have called this function."""
    of_chief(strategy, lambda: 0.0)


def of_chief(strategy: Strategy | None, find_out: Callable[[], float]) -> float:
    """What the chief finds out, in all processes of the strategy, which call this function
    together; the others find out nothing.

    Example:
        >>> of_chief(None, lambda: 0.5)
        0.5
    """
    value = find_out() if is_chief(strategy) else 0.0
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return value

    def of_first() -> tf.Tensor:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        # As a double, so that it has the same bits everywhere.
        return tf.where(tf.equal(number, 0), tf.constant(value, tf.float64), 0.0)

    @tf.function(autograph=False)
    def shared() -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(of_first), axis=None)

    return float(shared())


# -- in a step -------------------------------------------------------------------------------------


def replicas() -> int:
    """How many replicas share a batch: 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def mean_loss(
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], labels: tf.Tensor, outputs: tf.Tensor
) -> tf.Tensor:
    """The mean of a loss, which returns that mean or a value for each example, over the examples
    that this replica has; 0 without any. Under a strategy, Keras' own losses refuse to take one."""
    if not tf.distribute.has_strategy():
        return tf.reduce_mean(loss(labels, outputs))
    values = loss.call(labels, outputs) if isinstance(loss, keras.losses.Loss) else None
    values = loss(labels, outputs) if values is None else values
    count = tf.cast(tf.size(values), values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values), count)


def examples_seen(labels: tf.Tensor) -> tf.Tensor | None:
    """The weight of this replica's part in a mean over parts that may differ: the last ones of an
    evaluation. None, for equal weights, without a strategy."""
    return tf.shape(labels)[0] if tf.distribute.has_strategy() else None


def shares_of_mean(
    gradients: Sequence[tf.Tensor | None],
) -> list[tf.Tensor | None]:
    """Each replica's share of the gradients' mean over all replicas: the shares' sum, which
    optimizers take, is that mean."""
    count = replicas()
    if count == 1:
        return list(gradients)
    return [None if gradient is None else gradient / count for gradient in gradients]


def means(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The means of tensors over all replicas, on each of them."""
    return _reduced(tf.distribute.ReduceOp.MEAN, values)


def sums(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The sums of tensors over all replicas, on each of them."""
    return _reduced(tf.distribute.ReduceOp.SUM, values)


def _reduced(operation: tf.distribute.ReduceOp, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    context = tf.distribute.get_replica_context()
    # There is none while a model is made.
    if replicas() == 1 or context is None:
        return list(values)
    return list(context.all_reduce(operation, list(values)))


def own_rows(make: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
    """This replica's `rows` of what `make` draws for the rows of all replicas, [rows, …]."""
    context = tf.distribute.get_replica_context()
    if replicas() == 1 or context is None:
        return make(rows)
    first = context.replica_id_in_sync_group * rows
    return make(rows * replicas())[first : first + rows]


def own_copy(variable: tf.Variable) -> tf.Variable:
    """This replica's copy of a variable, for the arguments of a traced function: such a function
    keeps the distributed variable of its first call, and uses it in all others."""
    in_step = tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
    return variable._get() if in_step else variable


def level_statistics(variables: Iterable[tf.Variable]) -> Callable[[], None]:
    """Reads the moving averages that each replica has of its own, of these variables; the function
    that is returned gives all replicas their mean, as a restored checkpoint does."""
    if not tf.distribute.has_strategy():
        return lambda: None
    own = tf.VariableSynchronization.ON_READ
    read = [(v, v.read_value()) for v in variables if v.synchronization == own]

    def level() -> None:
        for variable, value in read:
            variable.assign(value)

    return level


class OfReplica(threading.local):
    """An attribute `value` of each replica's own: replicas of one process take turns in a step,
    each in a thread. The first value is shared: it is replaced, never changed.

    Example:
        >>> OfReplica({}).value
        {}
    """

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = self._first = value

    def __reduce__(self) -> tuple:
        # A copy of a model begins anew: what is held belongs to a step.
        return type(self), (self._first,)
