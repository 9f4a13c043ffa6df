"""Arrays as other servers' clients write them, in JSON or as raw bytes, to the rows of a batch and back.

In between they are NumPy arrays, those of BYTES of ``bytes`` objects. What a client wrote is never trusted: every
mistake is an ``InvalidRequest`` that names the input, and nothing is allocated that was not sent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.errors import InvalidRequest, ModelFailed
from shoal.wire import ModelCard, Tensor
from worker.dialects import Item

__all__ = [
    "DATATYPES",
    "Values",
    "datatype_of",
    "fitted",
    "from_bytes",
    "from_json",
    "items_of",
    "joined",
    "see_size",
    "to_bytes",
    "to_json",
]

Values = npt.NDArray[Any]

DATATYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
"""The Open Inference Protocol's names, and NumPy's."""

_NAMES = {dtype: datatype for datatype, dtype in DATATYPES.items()}
_MOST_DIMENSIONS = 8
_OTHER_VALUES = 1024  # that a body may have beside those of its images
_SHORT_DIGITS = (9, 8, 7, 6, 5, 4)  # nine say every float32, five every float16
_EXACT_POWER = 22  # of ten, in a float64
_LENGTH = struct.Struct("<I")
_WRITTEN_AS: Mapping[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true and false"),
    "u": (frozenset({int}), "whole numbers"),
    "i": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str, bytes}), "strings"),
}


def datatype_of(dtype: str) -> str:
    """The Open Inference Protocol's name of a NumPy dtype. Raises ``ValueError`` when it has none."""
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"{dtype} is no NumPy dtype") from error
    name = "BYTES" if kind.kind in "SUO" else _NAMES.get(kind.name)
    if name is None:
        raise ValueError(f"{dtype} has no name in the Open Inference Protocol")
    return name


# From a client


def see_size(text: bytes, card: ModelCard, *, most: int) -> None:
    """Raises ``InvalidRequest`` for JSON of more values, or more lists, than ``most`` images of the model have.

    Reading it would hold up everybody's requests, from whatever thread: the interpreter does nothing else meanwhile.
    """
    shapes = [card.input.shape, *([card.tensor.shape] if card.tensor else [])]
    if any(side < 0 for shape in shapes for side in shape):
        return
    values = most * max(math.prod(shape) for shape in shapes)
    lists = most * max(sum(math.prod(shape[:n]) for n in range(len(shape))) for shape in shapes)
    if text.count(b",") > values + _OTHER_VALUES or text.count(b"[") > lists + _OTHER_VALUES:
        raise InvalidRequest(f"The body has more values than {most} images of the model {card.key}.")


def from_json(name: str, data: object, dtype: str) -> Values:
    """Lists of one value each level, as JSON has them, nested as deep as the array; BYTES as strings, or ``bytes``.

    Raises ``InvalidRequest`` for ragged lists, values of another kind, and numbers that ``dtype`` does not hold.
    """
    shape, flat = _flattened(name, data)
    kind = np.dtype(dtype).kind
    allowed, words = _WRITTEN_AS[kind]
    if not set(map(type, flat)) <= allowed:
        raise InvalidRequest(f"Input {name!r}: its values are {words}.")
    match kind:
        case "O":
            values = _of_strings(name, flat)
        case "u" | "i":
            values = _of_whole_numbers(name, flat, dtype)
        case "f":
            values = _of_numbers(name, flat, dtype)
        case _:
            values = np.array(flat, dtype)
    return values.reshape(shape)


def from_bytes(name: str, data: bytes | memoryview, dtype: str, shape: Sequence[int]) -> Values:
    """An array from little-endian, row-major bytes; elements of BYTES have their length in four bytes before them.

    Raises ``InvalidRequest`` when there are more or fewer of them than ``shape`` needs.
    """
    _check(name, shape)
    count, kind = math.prod(shape), np.dtype(dtype)
    if kind.kind == "O":
        return _objects(_elements(name, memoryview(data), count)).reshape(shape)
    if len(data) != count * kind.itemsize:
        raise InvalidRequest(
            f"Input {name!r} has {len(data)} bytes; {_NAMES[kind.name]} of shape {_listed(shape)} has "
            f"{count * kind.itemsize}."
        )
    if kind.kind == "b" and count and np.frombuffer(data, np.uint8).max() > 1:
        raise InvalidRequest(f"Input {name!r}: a byte of a BOOL is 0 or 1.")
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(shape)


def fitted(name: str, values: Values, shape: Sequence[int]) -> Values:
    """An array that came flat, or of ``shape`` already, in that shape. Raises ``InvalidRequest`` for any other."""
    _check(name, shape)
    wanted = tuple(shape)
    if values.shape == wanted or (values.ndim == 1 and values.size == math.prod(wanted)):
        return values.reshape(wanted)
    raise InvalidRequest(f"Input {name!r} has data of shape {_listed(values.shape)}, not {_listed(shape)}.")


def items_of(name: str, values: Values, card: ModelCard, *, most: int) -> list[Item]:
    """The rows of a batch, as what a job takes: encoded images, or arrays that are made ready.

    An array is uint8 and of the size of ``card.input``, or of the dtype and shape of ``card.tensor``. Raises
    ``InvalidRequest`` for any other, none, and more than ``most`` rows.
    """
    if not values.ndim:
        raise InvalidRequest(f"Input {name!r} is a single value, not a batch.")
    if not 1 <= len(values) <= most:
        raise InvalidRequest(f"Input {name!r} has {len(values)} rows; from 1 to {most} are accepted here.")
    if values.dtype.kind == "O":
        return _images(name, values)
    if not _fits(values, card):
        raise InvalidRequest(
            f"Input {name!r} is {_NAMES[values.dtype.name]} of shape {_listed(values.shape)}; the model "
            f"{card.key} takes {_taken(card)}."
        )
    dtype = values.dtype.name
    return [Tensor(dtype, row.shape, row.tobytes()) for row in values]


def _check(name: str, shape: Sequence[int]) -> None:
    """No shape of nothing: there may be too much of it for NumPy."""
    if len(shape) > _MOST_DIMENSIONS:
        raise InvalidRequest(f"Input {name!r} has more than {_MOST_DIMENSIONS} dimensions.")
    if any(side < 1 for side in shape):
        raise InvalidRequest(f"Input {name!r} has shape {_listed(shape)}: its sides are 1 or more.")


def _flattened(name: str, data: object) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and their values in row-major order. Raises ``InvalidRequest`` for ragged ones."""
    shape: list[int] = []
    level: list[Any] = [data]
    while level and isinstance(level[0], list):
        if len(shape) == _MOST_DIMENSIONS:
            raise InvalidRequest(f"Input {name!r} has more than {_MOST_DIMENSIONS} dimensions.")
        if set(map(type, level)) != {list} or len(set(map(len, level))) != 1:
            raise InvalidRequest(f"Input {name!r}: lists of the same level have the same length.")
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
    return tuple(shape), level


def _of_strings(name: str, flat: Sequence[str | bytes]) -> Values:
    try:
        return _objects([value.encode() if isinstance(value, str) else value for value in flat])
    except UnicodeEncodeError:
        raise InvalidRequest(f"Input {name!r} has a string that is not Unicode.") from None


def _of_whole_numbers(name: str, flat: Sequence[int], dtype: str) -> Values:
    span = np.iinfo(dtype)
    if flat and not (span.min <= min(flat) and max(flat) <= span.max):
        raise InvalidRequest(f"Input {name!r}: its values are from {span.min} to {span.max}.")
    return np.array(flat, dtype)


def _of_numbers(name: str, flat: Sequence[float], dtype: str) -> Values:
    try:
        exact = np.array(flat, np.float64)
    except OverflowError:
        raise InvalidRequest(f"Input {name!r} has a number that is too large.") from None
    with np.errstate(over="ignore", under="ignore"):
        values = exact.astype(dtype)
    if not np.array_equal(np.isfinite(exact), np.isfinite(values)):
        raise InvalidRequest(f"Input {name!r} has a number that is too large for {_NAMES[dtype]}.")
    return values


def _elements(name: str, data: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) < count:
        start = at + _LENGTH.size
        if start > len(data):
            break
        at = start + _LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            break
        elements.append(bytes(data[start:at]))
    if len(elements) != count or at != len(data):
        raise InvalidRequest(
            f"Input {name!r}: its {len(data)} bytes are not {count} elements, each with its length in four bytes "
            "before it."
        )
    return elements


def _objects(elements: Sequence[bytes]) -> Values:
    values = np.empty(len(elements), object)
    values[:] = elements
    return values


def _images(name: str, values: Values) -> list[Item]:
    if values.ndim > 2 or values.size != len(values):
        raise InvalidRequest(f"Input {name!r} has shape {_listed(values.shape)}; encoded images are of [n] or [n,1].")
    images: list[Item] = list(values.reshape(-1))
    for number, image in enumerate(images, 1):
        if not image:
            raise InvalidRequest(f"Input {name!r}: image {number} is empty.")
    return images


def _fits(values: Values, card: ModelCard) -> bool:
    row = values.shape[1:]
    is_image = values.dtype == np.uint8 and row == card.input.shape
    return is_image or (card.tensor is not None and card.tensor.takes(values.dtype.name, row))


def _taken(card: ModelCard) -> str:
    taken = [f"encoded images (BYTES of shape [n]), images as UINT8 of {_rows(card.input.shape)}"]
    if card.tensor is not None:
        taken.append(f"and its own input, {datatype_of(card.tensor.dtype)} of {_rows(card.tensor.shape)}")
    return ", ".join(taken)


# To a client


def joined(name: str, rows: Sequence[Tensor]) -> Values:
    """The batch of an output's rows.

    Raises ``InvalidRequest`` when they differ in shape, as a detector's may, and ``ModelFailed`` for what is no array.
    """
    try:
        values = [_values(row) for row in rows]
    except (TypeError, ValueError) as error:
        raise ModelFailed(f"The model's output {name!r} is no array.") from error
    if len({(value.shape, value.dtype.kind) for value in values}) != 1:
        raise InvalidRequest(f"Output {name!r} has another shape for each image: send them one by one.")
    return np.stack(values)


def to_bytes(values: Values) -> bytes:
    """Little-endian and row-major; elements of BYTES with their length in four bytes before them."""
    if values.dtype.kind == "O":
        return b"".join(_LENGTH.pack(len(element)) + element for element in values.reshape(-1))
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(values: Values) -> Any:
    """Lists, nested as deep as the array, whose floats have few decimals, and say the same; BYTES as strings.

    Raises ``InvalidRequest`` for what JSON cannot say: strings that are not UTF-8.
    """
    if values.dtype.kind == "O":
        try:
            return _objects_as_text(values).tolist()
        except UnicodeDecodeError:
            raise InvalidRequest("An output has bytes that are no text: ask for it as binary data.") from None
    return (_shortened(values) if values.dtype.kind == "f" and values.dtype.itemsize < 8 else values).tolist()


def _shortened(values: Values) -> Values:
    """Narrow floats as float64 of few decimals that are the same float again; as they are where that is not exact."""
    exact = values.astype(np.float64)
    found = exact
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log10(np.abs(exact)))
        for digits in _SHORT_DIGITS:
            places = digits - 1 - exponent
            power = np.power(10.0, np.abs(places))
            short = np.where(places < 0, np.rint(exact / power) * power, np.rint(exact * power) / power)
            is_same = (np.abs(places) <= _EXACT_POWER) & (short.astype(values.dtype) == values)
            found = np.where(is_same, short, found)
    return found


def _objects_as_text(values: Values) -> Values:
    texts = np.empty(values.size, object)
    texts[:] = [element.decode() for element in values.reshape(-1)]
    return texts.reshape(values.shape)


def _values(tensor: Tensor) -> Values:
    """An output as it travelled. Raises ``ValueError`` or ``TypeError`` when it is none."""
    if tensor.dtype == "bytes":
        try:
            return from_bytes("", tensor.data, "object", tensor.shape)
        except InvalidRequest as error:
            raise ValueError(error.message) from error
    dtype = np.dtype(tensor.dtype)
    if dtype.name not in _NAMES or dtype.kind == "O":
        raise ValueError(f"{tensor.dtype} has no name in the Open Inference Protocol")
    return np.frombuffer(tensor.data, dtype.newbyteorder("<")).reshape(tensor.shape)


def _listed(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _rows(shape: Sequence[int]) -> str:
    return f"[{','.join(('n', *map(str, shape)))}]"
