"""Arrays off the wire and onto it: what fits a model, what goes together, and how bytes travel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.wire import ImageInput, Job, ModelCard, Output, Tensor, TensorSpec
from worker.job_arrays import Ready, batches, fits, tensors, varies
from worker.jobs import Claimed
from worker.models.raw_outputs import classes, of_image
from worker.models.runtime import Array

FIXED = TensorSpec("pixels", "float32", (2, 2, 1))
VARYING = TensorSpec("pixels", "float32", (-1, 3))
NONE = np.array([], np.float32)


def card(tensor: TensorSpec | None = FIXED) -> ModelCard:
    return ModelCard(
        "m",
        "1",
        "d",
        "tensors",
        ImageInput("image", 2, 2, channels=1),
        16,
        tensor=tensor,
        outputs=(TensorSpec("logits", "float32", (5,)),),
    )


def job(tensor: Tensor, *, name: str = "image", outputs: tuple[Output, ...] | None = ()) -> Job:
    return Job("j", {name: tensor}, ["front"], 0.0, 1000, "r", outputs=outputs)


def of(dtype: str, *shape: int) -> Tensor:
    return Tensor(dtype, shape, np.arange(int(np.prod(shape))).astype(dtype).tobytes())


@pytest.mark.parametrize("name", ["image", "pixels"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_photo_and_a_ready_made_array_fit_under_either_name(name: str, dtype: str) -> None:
    found = fits(job(of(dtype, 2, 2, 1), name=name), card())
    assert (found.dtype.name, found.tolist()) == (dtype, [[[0], [1]], [[2], [3]]])


@pytest.mark.parametrize("shape", [(1, 3), (7, 3), (100, 3)])
def test_a_side_that_varies_takes_any_length(shape: tuple[int, ...]) -> None:
    found = fits(job(of("float32", *shape)), card(VARYING))
    assert found.shape == shape
    assert varies(found, card(VARYING))


def test_a_photo_is_never_of_a_shape_that_its_client_has_chosen() -> None:
    assert not varies(fits(job(of("uint8", 2, 2, 1)), card(VARYING)), card(VARYING))
    assert not varies(fits(job(of("float32", 2, 2, 1)), card()), card())


@pytest.mark.parametrize(
    ("tensor", "kind", "says"),
    [
        (of("float32", 2, 2), FIXED, "image is float32 (2, 2), not uint8 (2, 2, 1), nor float32 (2, 2, 1)"),
        (of("float32", 0, 3), VARYING, "image is float32 (0, 3), not uint8 (2, 2, 1), nor float32 (any, 3)"),
        (Tensor("float32", (-1, 3), bytes(12)), VARYING, "image is float32 (any, 3), not"),
        (of("float64", 2, 2, 1), FIXED, "image is float64 (2, 2, 1), not"),
        (of("float32", 2, 2, 1), None, "image is float32 (2, 2, 1), not uint8 (2, 2, 1)"),
        (Tensor("float32", (2, 2, 1), bytes(15)), FIXED, "its data are 15 bytes, and not 16"),
        (Tensor("float32", (2, 2, 1), bytes(20)), FIXED, "its data are 20 bytes, and not 16"),
        (Tensor("uint8", (2, 2, 1), b""), FIXED, "its data are 0 bytes, and not 4"),
        (Tensor("float32", (1 << 63, 3), bytes(12)), VARYING, f"its data are 12 bytes, and not {12 << 63}"),
        (Tensor("object", (2,), bytes(16)), TensorSpec("x", "object", (2,)), "object is not a kind of number"),
    ],
)
def test_what_does_not_fit_says_what_would(tensor: Tensor, kind: TensorSpec | None, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says.replace('(', '[(]').replace(')', '[)]')}"):
        fits(job(tensor), card(kind))


@pytest.mark.parametrize(
    ("given_job", "says"),
    [
        (job(of("uint8", 2, 2, 1), name="other"), "its inputs are other, not image or pixels"),
        (job(of("uint8", 2, 2, 1), outputs=(Output("logit"),)), "it has no output 'logit', there are logits"),
        (job(of("float32", 2, 2, 1), outputs=None), "a ready-made array is answered with the network's own outputs"),
    ],
)
def test_what_is_asked_for_must_fit_too(given_job: Job, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fits(given_job, card())


def test_bytes_that_are_no_bool_are_made_one() -> None:
    kind = TensorSpec("x", "bool", (3,))
    assert fits(job(Tensor("bool", (3,), b"\x00\x01\xff")), card(kind)).view(np.uint8).tolist() == [0, 1, 1]


def ready(dtype: str, shape: tuple[int, ...], *, suspect: bool = False) -> Ready:
    stream = "q:suspects" if suspect else "q"
    return Ready(Claimed(b"", stream, 0, 1, job(of(dtype, *shape))), np.zeros(shape, dtype))


@given(
    st.lists(
        st.builds(
            ready,
            st.sampled_from(["uint8", "float32"]),
            st.sampled_from([(1, 3), (2, 3), (2, 2, 1)]),
            suspect=st.booleans(),
        )
    ),
    st.integers(1, 5),
)
def test_batches_hold_each_job_once_and_are_of_one_kind(jobs: list[Ready], size: int) -> None:
    found = batches(jobs, size)
    assert sorted(map(id, jobs)) == sorted(id(one) for batch in found for one in batch)
    for batch in found:
        assert len({(one.array.dtype, one.array.shape) for one in batch}) == 1
        assert len(batch) == 1 if any(one.claimed.suspect for one in batch) else len(batch) <= size


@pytest.mark.parametrize(
    "array", [np.array([1, np.nan, np.inf], np.float32), np.array([[1, 2]], ">i4"), np.array(True)]
)
def test_numbers_travel_little_endian(array: Array) -> None:
    found = tensors({"x": array})["x"]
    assert (found.dtype, found.shape) == (array.dtype.name, array.shape)
    little = np.dtype(found.dtype).newbyteorder("<")
    assert np.array_equal(
        np.frombuffer(found.data, little).reshape(found.shape), array, equal_nan=found.dtype[0] == "f"
    )


def test_an_array_that_is_not_in_one_piece_travels_in_c_order() -> None:
    assert np.frombuffer(tensors({"x": np.arange(6).reshape(2, 3).T})["x"].data, "<i8").tolist() == [0, 3, 1, 4, 2, 5]


def test_bytes_travel_each_after_its_length() -> None:
    found = tensors({"x": np.array([b"ab", b"", "ü".encode()], object)})["x"]
    assert found == Tensor("bytes", (3,), b"\x02\0\0\0ab" + bytes(4) + b"\x02\0\0\0\xc3\xbc")


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([None]), np.array([1j])])
def test_what_cannot_travel_is_refused(array: Array) -> None:
    with pytest.raises(ValueError, match="output 'x'"):
        tensors({"x": array})


@pytest.mark.parametrize(
    ("values", "most", "labels", "found"),
    [
        (np.array([0.1, 0.7, 0.2], np.float32), 2, ("a", "b", "c"), [b"0.7:1:b", b"0.2:2:c"]),
        (np.array([0.1, 0.7, 0.2], np.float32), 2, ("a", "b"), [b"0.7:1", b"0.2:2"]),
        (np.array([[0.5], [0.5]], np.float32), 9, ("a", "b"), [b"0.5:0:a", b"0.5:1:b"]),
        (np.array([np.nan, -np.inf, 1, np.inf], np.float32), 4, (), [b"inf:3", b"1.0:2", b"nan:0", b"-inf:1"]),
        (np.array([0, 255, 3], np.uint8), 2, (), [b"255:1", b"3:2"]),
        (np.array([False, True]), 1, (), [b"1:1"]),
        (np.array(0.5, np.float16), 1, (), [b"0.5:0"]),
        (NONE, 3, (), []),
    ],
)
def test_classes_are_the_greatest_values_of_equals_the_lower_index_first(
    values: Array, most: int, labels: tuple[str, ...], found: list[bytes]
) -> None:
    assert classes(np.asarray(values), most, labels).tolist() == found


@given(st.lists(st.floats(width=32), max_size=30), st.integers(1, 40))
def test_classes_are_those_of_a_stable_sort(values: list[float], most: int) -> None:
    ranked = sorted(enumerate(values), key=lambda one: (np.inf if np.isnan(one[1]) else -one[1], one[0]))
    found = [entry.split(b":") for entry in classes(np.array(values, np.float32), most, ())]
    assert [int(index) for _, index in found] == [index for index, _ in ranked][:most]
    assert np.array_equal(
        [np.float32(value) for value, _ in found], np.array([v for _, v in ranked], np.float32)[:most], True
    )


def test_outputs_of_an_image_are_its_own() -> None:
    given_outputs: dict[str, Any] = {"a": np.arange(6).reshape(3, 2), "b": np.arange(3)}
    every = of_image(given_outputs, 1, (), ())
    assert {name: array.tolist() for name, array in every.items()} == {"a": [2, 3], "b": 1}
    chosen = of_image(given_outputs, 2, (Output("a", 1),), ("x", "y"))
    assert {name: array.tolist() for name, array in chosen.items()} == {"a": [b"5:1:y"]}
    with pytest.raises(ValueError, match="there is no output 'c', there are a, b"):
        of_image(given_outputs, 0, (Output("c"),), ())
