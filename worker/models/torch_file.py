"""Reads a published PyTorch weights file with NumPy alone, trusting nothing in it.

A legacy ``torch.save`` file is five pickles in a row (a magic number, the protocol number, a description of
the machine that wrote it, an ``OrderedDict`` of tensors, the list of storage keys), and then, for each key in
the list's order, an element count (int64, little-endian) and the raw elements. The tensors name their storage
by a persistent id, ``("storage", class, key, location, element count, None)``. Source: ``_legacy_save`` in
``torch/serialization.py``.

::

    TorchFileError(ValueError)   malformed, truncated, or holding more than tensors
    ├── WrongDigest              not the file that was pinned
    └── ForbiddenGlobal          a pickle that asks for anything but the four names below
"""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worker.models.runtime import Array

__all__ = ["ForbiddenGlobal", "TorchFileError", "WrongDigest", "parse", "read"]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_COUNT = 2**63 - 1

# What each storage class holds, always little-endian: the description of the machine is checked for that.
DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

# All that torch.save needs (pickle protocol 2) to write a dictionary of tensors.
OPCODES = re.compile(
    "PROTO|STOP|MARK|GLOBAL|REDUCE|BUILD|BINPERSID|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINUNICODE|(LONG_)?BINGET"
    "|(EMPTY_)?TUPLE|TUPLE[123]|EMPTY_LIST|APPENDS?|EMPTY_DICT|SETITEMS?|(LONG_)?BINPUT"
)

# What unpickling can raise when the bytes are wrong and no global is to blame.
_MALFORMED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class TorchFileError(ValueError):
    """The file is not a legacy ``torch.save`` file of plain tensors."""


class WrongDigest(TorchFileError):
    """The file's sha256 is not the pinned one."""


class ForbiddenGlobal(TorchFileError):
    """The file's pickle asks for a name that no dictionary of tensors needs."""


class _Storage(NamedTuple):
    key: str
    kind: str
    elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read(path: Path, sha256: str) -> dict[str, Array]:
    """The tensors of the file by name: float32 or int64 arrays, read-only.

    The digest (hexadecimal) is compared before anything is parsed. Raises ``OSError`` when the file cannot be
    read, else ``TorchFileError``.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise WrongDigest(f"{path.name} has sha256 {digest}, expected {sha256}: it is damaged or another version")
    return parse(data)


def parse(data: bytes) -> dict[str, Array]:
    """The tensors in the bytes of a file, as ``read`` returns them. Raises ``TorchFileError``."""
    stream = io.BytesIO(data)
    if _unpickle(stream, "magic number") != MAGIC:
        raise TorchFileError("not a legacy torch.save file: wrong magic number")
    if _unpickle(stream, "protocol number") != PROTOCOL:
        raise TorchFileError(f"not protocol {PROTOCOL} of torch.save")
    machine = _unpickle(stream, "machine description")
    if not isinstance(machine, dict) or dict.get(machine, "little_endian") is not True:
        raise TorchFileError("the file was not written on a little-endian machine")
    tensors = _tensors(_unpickle(stream, "tensors"))
    storages = _read_storages(stream, _unpickle(stream, "storage keys"), tensors)
    if stream.read(1):
        raise TorchFileError("bytes are left after the last storage")
    return {name: _cut(name, tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


class _Unpickler(pickle.Unpickler):
    """Knows four globals, and gives for each something that a hostile pickle can do nothing with.

    A pickle can set attributes of what it gets: so storages and tensors are tuples, and ``_rebuild`` is a fresh
    function in every instance.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)

        def rebuild(*arguments: object) -> _Tensor:
            return _describe(*arguments)

        self._rebuild = rebuild

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return self._rebuild
            case "torch", ("FloatStorage" | "LongStorage"):
                return name
        raise ForbiddenGlobal(f"the file asks for {module}.{name}, which no dictionary of tensors needs")

    def persistent_load(self, pid: object) -> _Storage:
        match pid:
            case ("storage", str(kind), str(key), str(), int(count), None) if (
                kind in DTYPES and 0 <= count <= MAX_COUNT
            ):
                return _Storage(key, kind, count)
        raise TorchFileError(f"malformed storage reference {pid!r}")


def _unpickle(stream: io.BytesIO, what: str) -> object:
    try:
        _check_opcodes(stream)
        return _Unpickler(stream).load()
    except TorchFileError:
        raise
    except _MALFORMED as error:
        raise TorchFileError(f"malformed or truncated at byte {stream.tell()}, in the {what}: {error}") from error


def _check_opcodes(stream: io.BytesIO) -> None:
    """Look over the next pickle without executing it, and come back to its start."""
    start = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if not OPCODES.fullmatch(opcode.name):
            raise TorchFileError(f"the file uses the pickle opcode {opcode.name}, which torch.save does not")
        # The unpickler allocates as many slots as the highest number says: tens of gigabytes for four bytes.
        if opcode.name.endswith("BINPUT") and int(argument or 0) > stream.tell() - start:
            raise TorchFileError("a pickle remembers more values than it has bytes")
    stream.seek(start)


def _describe(*arguments: object) -> _Tensor:
    """Stands in for ``torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)``."""
    match arguments:
        case (_Storage() as storage, int(offset), tuple(shape), tuple(stride), bool(), OrderedDict()):
            if not all(type(value) is int and value >= 0 for value in (offset, *shape, *stride)):
                raise TorchFileError(f"malformed tensor of shape {shape!r}")
            return _Tensor(storage, offset, shape, stride)
    raise TorchFileError("malformed tensor")


def _tensors(value: object) -> dict[str, _Tensor]:
    if not isinstance(value, dict):
        raise TorchFileError(f"a dictionary of tensors was expected, not {type(value).__name__}")
    # Not value.items(): a pickle can give an OrderedDict an attribute of that name.
    tensors = dict(dict.items(value))
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise TorchFileError("the dictionary holds something that is not a tensor with a name")
    return tensors


def _read_storages(stream: io.BytesIO, keys: object, tensors: dict[str, _Tensor]) -> dict[str, Array]:
    expected: dict[str, _Storage] = {}
    for tensor in tensors.values():
        if expected.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise TorchFileError(f"storage {tensor.storage.key} is described in two ways")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise TorchFileError("malformed list of storage keys")
    if len(keys) != len(set(keys)) or set(keys) != set(expected):
        raise TorchFileError("the storage keys are not those of the tensors")
    return {key: _read_storage(stream, expected[key]) for key in keys}


def _read_storage(stream: io.BytesIO, storage: _Storage) -> Array:
    try:
        (count,) = struct.unpack("<q", stream.read(8))
    except struct.error as error:
        raise TorchFileError(f"truncated before storage {storage.key}") from error
    if count != storage.elements:
        raise TorchFileError(f"storage {storage.key} has {count} elements, {storage.elements} expected")
    dtype = DTYPES[storage.kind]
    size = count * dtype.itemsize
    if size > stream.getbuffer().nbytes - stream.tell():
        raise TorchFileError(f"truncated in storage {storage.key}")
    return np.frombuffer(stream.read(size), dtype)


def _cut(name: str, tensor: _Tensor, storage: Array) -> Array:
    """The tensor as a view of its storage. NumPy itself checks that it stays inside."""
    item = storage.itemsize
    strides = tuple(step * item for step in tensor.stride)
    try:
        view: Array = np.ndarray(tensor.shape, storage.dtype, storage, tensor.offset * item, strides)
    except (ValueError, OverflowError) as error:
        raise TorchFileError(f"{name} does not fit storage {tensor.storage.key}: {error}") from error
    view.flags.writeable = False
    return view
