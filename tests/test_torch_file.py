"""Weights files as torch.save writes them, and as an attacker or a broken disk would."""

from __future__ import annotations

import io
import itertools
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from worker.models import torch_file


class Stored(NamedTuple):
    """A persistent id, as the writer below wants it."""

    pid: tuple[Any, ...]


class Named:
    """Pickles as a global, called with arguments unless there are none."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.name, self.arguments = name, arguments


class Writer(pickle._Pickler):
    """Writes globals of modules that are not installed."""

    write: Callable[[bytes], object]

    def persistent_id(self, obj: object) -> object:
        return obj.pid if isinstance(obj, Stored) else None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, Named):
            super().save(obj, save_persistent_id)  # type: ignore[misc]
            return
        module, _, name = obj.name.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        if obj.arguments:
            super().save(obj.arguments)  # type: ignore[misc]
            self.write(pickle.REDUCE)


def dump(value: object) -> bytes:
    stream = io.BytesIO()
    Writer(stream, 2).dump(value)
    return stream.getvalue()


def stored(key: str = "a", count: object = 6, kind: str = "FloatStorage") -> Stored:
    return Stored(("storage", Named(f"torch.{kind}"), key, "cpu", count, None))


def tensor(storage: Stored, shape: object = (2, 3), stride: object = (3, 1), offset: object = 0) -> Named:
    hooks: OrderedDict[str, object] = OrderedDict()
    return Named("torch._utils._rebuild_tensor_v2", storage, offset, shape, stride, False, hooks)


SIX = struct.pack("<q6f", 6, *range(6))
MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def saved(
    tensors: object,
    keys: object = ("a",),
    raw: bytes = SIX,
    magic: object = torch_file.MAGIC,
    protocol: object = 1001,
    machine: object = MACHINE,
) -> bytes:
    listed = list(keys) if isinstance(keys, tuple) else keys
    return b"".join(map(dump, (magic, protocol, machine, tensors, listed))) + raw


GOOD = saved(OrderedDict(w=tensor(stored())))


def test_reads_tensors_in_any_layout() -> None:
    both = OrderedDict(
        w=tensor(stored()),
        transposed=tensor(stored(), (3, 2), (1, 3)),
        tail=tensor(stored(), (2,), (1,), 4),
        steps=tensor(stored("b", 1, "LongStorage"), (), ()),
    )
    read = torch_file.parse(saved(both, ("b", "a"), struct.pack("<qq", 1, 7) + SIX))
    assert {name: array.tolist() for name, array in read.items()} == {
        "w": [[0, 1, 2], [3, 4, 5]],
        "transposed": [[0, 3], [1, 4], [2, 5]],
        "tail": [4, 5],
        "steps": 7,
    }
    assert [array.dtype.str for array in read.values()] == ["<f4", "<f4", "<f4", "<i8"]
    assert not any(array.flags.writeable for array in read.values())


def test_pins_the_digest_before_it_parses(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"anything")
    with pytest.raises(torch_file.WrongDigest, match=r"weights\.pth has sha256 [0-9a-f]{64}, expected 00"):
        torch_file.read(file, "0" * 64)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.IntStorage", "collections.deque", "torch.load"])
def test_refuses_every_other_global(name: str) -> None:
    with pytest.raises(torch_file.ForbiddenGlobal, match=name.replace(".", r"\.")):
        torch_file.parse(saved(OrderedDict(w=Named(name, "true"))))


@pytest.mark.parametrize(
    ("pickled", "complaint"),
    [
        (b"\x80\x02}r\xff\xff\xff\xff.", "remembers more values"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
        (b"(icollections\nOrderedDict\n.", "opcode INST"),
        (b"\x8b\xff\xff\xff\x7f.", "malformed or truncated"),
    ],
)
def test_refuses_opcodes_that_no_tensors_need(pickled: bytes, complaint: str) -> None:
    with pytest.raises(torch_file.TorchFileError, match=complaint):
        torch_file.parse(dump(torch_file.MAGIC) + pickled)


def test_an_attribute_set_by_the_pickle_is_not_called() -> None:
    poisoned = dump(OrderedDict(w=tensor(stored())))[:-1] + b"}(X\x05\x00\x00\x00itemsK\x01ub."
    parts = [dump(torch_file.MAGIC), dump(1001), dump(MACHINE), poisoned, dump(["a"]), SIX]
    assert list(torch_file.parse(b"".join(parts))) == ["w"]


HUGE = 10**5000
MALFORMED = {
    "empty": b"",
    "not a pickle": b"PK\x03\x04 a zip file",
    "wrong magic": saved(OrderedDict(), magic=1),
    "wrong protocol": saved(OrderedDict(), protocol=HUGE),
    "no machine": saved(OrderedDict(), machine=None),
    "big-endian": saved(OrderedDict(), machine={"little_endian": False}),
    "not a dictionary": saved([tensor(stored())]),
    "not a tensor": saved(OrderedDict(w=1)),
    "a storage alone": saved(OrderedDict(w=stored())),
    "name not a string": saved({HUGE: tensor(stored())}),
    "beyond the storage": saved(OrderedDict(w=tensor(stored(), (2, 4), (4, 1)))),
    "offset beyond": saved(OrderedDict(w=tensor(stored(), offset=1))),
    "offset huge": saved(OrderedDict(w=tensor(stored(), offset=HUGE))),
    "stride beyond": saved(OrderedDict(w=tensor(stored(), stride=(2**62, 1)))),
    "negative stride": saved(OrderedDict(w=tensor(stored(), stride=(3, -1)))),
    "shape of words": saved(OrderedDict(w=tensor(stored(), shape=("2", 3)))),
    "shape not a tuple": saved(OrderedDict(w=tensor(stored(), shape=6))),
    "too few strides": saved(OrderedDict(w=tensor(stored(), stride=(1,)))),
    "seventy axes": saved(OrderedDict(w=tensor(stored(), (1,) * 70, (1,) * 70))),
    "memory bomb": saved(OrderedDict(w=tensor(stored(), (2**61, 4), (0, 0)))),
    "tensor of nothing": saved(OrderedDict(w=Named("torch._utils._rebuild_tensor_v2", 1))),
    "two storages of a key": saved(OrderedDict(v=tensor(stored()), w=tensor(stored(count=7)))),
    "storage kind unknown": saved(OrderedDict(w=tensor(Stored(("storage", "Float", "a", "cpu", 6, None))))),
    "storage id no tuple": saved(OrderedDict(w=tensor(Stored(("module", "a"))))),
    "storage of minus one": saved(OrderedDict(w=tensor(stored(count=-1)))),
    "storage huge": saved(OrderedDict(w=tensor(stored(count=HUGE)))),
    "storage larger than the file": saved(OrderedDict(w=tensor(stored(count=2**60))), raw=struct.pack("<q", 2**60)),
    "keys not a list": saved(OrderedDict(w=tensor(stored())), keys={"a": 1}),
    "keys not strings": saved(OrderedDict(w=tensor(stored())), keys=(1,)),
    "key missing": saved(OrderedDict(w=tensor(stored())), keys=()),
    "key twice": saved(OrderedDict(w=tensor(stored())), keys=("a", "a")),
    "key of nothing": saved(OrderedDict(w=tensor(stored())), keys=("a", "b")),
    "another count": saved(OrderedDict(w=tensor(stored())), raw=struct.pack("<q6f", 5, *range(6))),
    "negative count": saved(OrderedDict(w=tensor(stored())), raw=struct.pack("<q", -1)),
    "bytes left over": GOOD + b"\0",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_refuses_malformed_files(data: bytes) -> None:
    with pytest.raises(torch_file.TorchFileError):
        torch_file.parse(data)


def test_refuses_a_file_cut_anywhere_and_survives_any_changed_byte() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(torch_file.TorchFileError):
            torch_file.parse(GOOD[:end])
    for at, flip in itertools.product(range(len(GOOD)), (0x01, 0x20, 0x80, 0xFF)):
        changed = bytearray(GOOD)
        changed[at] ^= flip
        try:
            torch_file.parse(bytes(changed))
        except torch_file.TorchFileError:
            continue
