"""Arrays between a client's JSON or bytes and the rows of a batch: what goes in comes out, and mistakes have names."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_arrays

from shoal.errors import InvalidRequest, ModelFailed
from shoal.wire import ImageInput, ModelCard, Tensor, TensorSpec
from worker.dialects import arrays
from worker.dialects.arrays import DATATYPES, Values

CARD = ModelCard("m", "1", "d" * 64, "classification", ImageInput("image", 2, 3), max_batch_size=4)
FLOATS = msgspec.structs.replace(CARD, tensor=TensorSpec("x", "float32", (2, -1)))
NUMBERS = [dtype for dtype in DATATYPES.values() if dtype != "object"]


@st.composite
def any_array(draw: st.DrawFn) -> Values:
    shape = draw(numpy_arrays.array_shapes(max_dims=4, max_side=4))
    dtype = draw(st.sampled_from([*NUMBERS, "object"]))
    if dtype == "object":
        elements = draw(st.lists(st.text(max_size=5), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        values = np.empty(len(elements), object)
        values[:] = [element.encode() for element in elements]
        return values.reshape(shape)
    found: Values = draw(numpy_arrays.arrays(dtype, shape, elements={} if dtype[0] != "f" else {"allow_nan": False}))
    return found


def same(one: Values, other: Values) -> bool:
    return one.dtype.name == other.dtype.name and one.shape == other.shape and bool((one == other).all())


@given(any_array())
def test_bytes_come_back_as_they_went(values: Values) -> None:
    assert same(arrays.from_bytes("x", arrays.to_bytes(values), values.dtype.name, values.shape), values)


@given(any_array().filter(lambda values: values.dtype.kind != "f" or bool(np.isfinite(values).all())))
def test_json_comes_back_as_it_went(values: Values) -> None:
    written = json.loads(json.dumps(arrays.to_json(values)))
    read = arrays.from_json("x", written, values.dtype.name)
    assert same(read, values)
    flat = json.loads(json.dumps(arrays.to_json(values.reshape(-1))))
    assert same(arrays.fitted("x", arrays.from_json("x", flat, values.dtype.name), values.shape), values)


@given(any_array())
def test_rows_are_joined_to_the_batch_they_were(values: Values) -> None:
    rows = [
        Tensor(row.dtype.name.replace("object", "bytes"), row.shape, arrays.to_bytes(row))
        for row in (values[n, ...] for n in range(len(values)))
    ]
    assert same(arrays.joined("y", rows), values)


@pytest.mark.parametrize(
    ("data", "dtype", "said"),
    [
        ([[1, 2], [3]], "int8", "same length"),
        ([[1, 2], 3], "int8", "same length"),
        ([1, [2]], "int8", "whole numbers"),
        ([1, 2.0], "int8", "whole numbers"),
        ([1, True], "uint8", "whole numbers"),
        ([1, None], "float32", "numbers"),
        ([True], "float64", "numbers"),
        (["1"], "float64", "numbers"),
        ([{"x": 1}], "float64", "numbers"),
        ([0, 1], "bool", "true and false"),
        ([1], "object", "strings"),
        ([256], "uint8", "from 0 to 255"),
        ([-1], "uint64", "from 0 to"),
        ([1 << 64], "uint64", "from 0 to"),
        ([10**400], "float64", "too large"),
        ([1e39], "float32", "too large for FP32"),
        ([65536], "float16", "too large for FP16"),
        (["\ud800"], "object", "Unicode"),
        ([[[[[[[[[1]]]]]]]]], "int8", "more than 8 dimensions"),
    ],
)
def test_what_is_wrong_with_json(data: Any, dtype: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Input 'photo'.*{said}"):
        arrays.from_json("photo", data, dtype)


@pytest.mark.parametrize(
    ("data", "dtype", "shape", "said"),
    [
        (b"123", "uint8", (2, 2), r"has 3 bytes; UINT8 of shape \[2,2\] has 4"),
        (b"12345", "float32", (1,), "has 5 bytes; FP32"),
        (b"\2", "bool", (1,), "0 or 1"),
        (b"\1\0\0\0ab", "object", (1,), "are not 1 elements"),
        (b"\1\0\0\0", "object", (1,), "are not 1 elements"),
        (b"\1\0\0", "object", (1,), "are not 1 elements"),
        (b"\1\0\0\0a", "object", (2,), "are not 2 elements"),
        (b"\xff\xff\xff\xffa", "object", (1,), "are not 1 elements"),
        (b"", "object", (1 << 60,), "elements"),
        (b"", "float64", (1 << 60, 1 << 60), "has 0 bytes"),
        (b"", "float64", (0, 1 << 60), "sides are 1 or more"),
        (b"1", "uint8", (1,) * 65, "more than 8 dimensions"),
    ],
)
def test_what_is_wrong_with_bytes(data: bytes, dtype: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Input 'photo'.*{said}"):
        arrays.from_bytes("photo", data, dtype, shape)


@pytest.mark.parametrize(
    ("values", "shape"),
    [(np.zeros(3), (2, 2)), (np.zeros((4, 1)), (2, 2)), (np.zeros(0), (1, 1)), (np.zeros(()), (2,))],
)
def test_data_of_another_shape(values: Values, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="Input 'photo' has data of shape"):
        arrays.fitted("photo", values, shape)


def test_an_array_becomes_a_row_for_each_image() -> None:
    values = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    items = arrays.items_of("photo", values, CARD, most=2)
    assert items == [Tensor("uint8", (2, 3, 3), values[n].tobytes()) for n in range(2)]


def test_the_networks_own_input_may_vary_where_it_says_so() -> None:
    assert arrays.items_of("x", np.zeros((1, 2, 5), np.float32), FLOATS, most=1) == [
        Tensor("float32", (2, 5), bytes(40))
    ]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_encoded_images_are_items_as_they_are(shape: tuple[int, ...]) -> None:
    values = arrays.from_json("photo", [b"one", b"two"], "object").reshape(shape)
    assert arrays.items_of("photo", values, CARD, most=2) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((), np.uint8), "a single value"),
        (np.zeros((0, 2, 3, 3), np.uint8), "has 0 rows"),
        (np.zeros((3, 2, 3, 3), np.uint8), "has 3 rows; from 1 to 2"),
        (np.zeros((1, 2, 3, 1), np.uint8), r"is UINT8 of shape \[1,2,3,1\]"),
        (np.zeros((1, 2, 3, 3), np.float32), r"FP32 of \[n,2,-1\]"),
        (np.zeros((1, 3, 1), np.float32), r"is FP32 of shape \[1,3,1\]"),
        (np.zeros((1, 2, 0), np.float32), r"is FP32 of shape \[1,2,0\]"),
        (np.zeros((1, 2, 1), np.float64), "is FP64"),
        (arrays.from_json("", [[b"a", b"b"]], "object"), r"encoded images are of \[n\]"),
        (arrays.from_json("", [[[b"a"]]], "object"), r"encoded images are of \[n\]"),
        (arrays.from_json("", [b"a", b""], "object"), "image 2 is empty"),
    ],
)
def test_what_no_model_takes(values: Values, said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Input 'photo'.*{said}"):
        arrays.items_of("photo", values, FLOATS, most=2)


def test_rows_of_different_shapes_are_no_batch() -> None:
    with pytest.raises(InvalidRequest, match="Output 'boxes' has another shape"):
        arrays.joined("boxes", [Tensor("uint8", (1,), b"1"), Tensor("uint8", (2,), b"12")])


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("uint8", (3,), b"1"),
        Tensor("nothing", (1,), b"1"),
        Tensor("bytes", (1,), b""),
        Tensor("object", (1,), b"12345678"),
    ],
)
def test_an_output_that_is_none_is_the_models_fault(tensor: Tensor) -> None:
    with pytest.raises(ModelFailed, match="'boxes'"):
        arrays.joined("boxes", [tensor])


@given(st.floats(allow_nan=True, width=32), st.sampled_from(["float32", "float16"]))
def test_a_float_in_json_is_the_same_float(number: float, dtype: str) -> None:
    with np.errstate(over="ignore"):
        values = np.array([number, -number], dtype)
        read = np.array(arrays.to_json(values)).astype(dtype)
    assert np.array_equal(read, values, equal_nan=True)


@given(st.floats(2**-20, 2**20, width=32))
def test_a_float_in_json_is_short(number: float) -> None:
    (written,) = arrays.to_json(np.array([number], np.float32))
    assert written == float(f"{written:.9g}")


def test_a_short_float_stays_so() -> None:
    short = [0.1, 0.2, 1e-3, 123.456, 0.0, 5.0, 1e10]
    assert arrays.to_json(np.array(short, np.float32)) == short


def test_classes_are_strings() -> None:
    data = arrays.to_bytes(arrays.from_json("", ["0.5:1:cat", "0.1:0"], "object"))
    assert arrays.to_json(arrays.joined("y", [Tensor("bytes", (2,), data)])) == [["0.5:1:cat", "0.1:0"]]


def test_bytes_that_are_no_text_have_no_json() -> None:
    with pytest.raises(InvalidRequest, match="binary data"):
        arrays.to_json(arrays.from_json("x", [b"\xff"], "object"))


@pytest.mark.parametrize(
    ("dtype", "datatype"), [*((dtype, name) for name, dtype in DATATYPES.items()), ("<U3", "BYTES")]
)
def test_every_dtype_has_its_name(dtype: str, datatype: str) -> None:
    assert arrays.datatype_of(dtype) == datatype


def test_a_dtype_without_a_name() -> None:
    with pytest.raises(ValueError, match="complex64"):
        arrays.datatype_of("complex64")
