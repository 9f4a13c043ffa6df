"""From a network's outputs to answers: classes, embeddings and tensors, and the labels that name them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from shoal.wire import ImageInput
from worker.models import tasks
from worker.models.networks import Spec
from worker.models.runtime import Array, Asked
from worker.models.tasks import classification, embedding, labels, tensors

ANIMALS = ("cat", "dog", "cow")
IMAGE = ImageInput("image", 8, 8, "squash")
NUMBERS = Spec("scores", "float32", (-1, 3))


def classifier(
    names: Sequence[str] = ANIMALS, outputs: Sequence[Spec] = (NUMBERS,), **settings: Any
) -> classification.Classification:
    return classification.build(classification.Settings.model_validate(settings), names, outputs, IMAGE)


def classified(rows: object, task: classification.Classification, *options: dict[str, Any]) -> list[Any]:
    array = np.asarray(rows, np.float32)
    asked = [Asked(option) for option in options] or [Asked()] * len(array)
    found = task.answers({task.output: array}, asked)
    assert json.loads(json.dumps(found)) == found
    return [answer["predictions"] for answer in found]


def pairs(predictions: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(p["label"], round(p["probability"], 4)) for p in predictions]


# --- every task --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "embedding", "tensors"])
def test_a_task_of_a_manifest_has_settings_and_no_unknown_ones(task: str) -> None:
    module = tasks.module_of(task)
    module.Settings.model_validate({})
    with pytest.raises(ValidationError, match="nonsense"):
        module.Settings.model_validate({"nonsense": 1})


BROKEN: dict[str, Array] = {
    "not a number": np.array([[0.1, np.nan, 0.2]], np.float32),
    "infinite": np.array([[0.1, np.inf, 0.2]], np.float32),
    "of too many images": np.zeros((2, 3), np.float32),
    "of no image": np.array(0.5, np.float32),
    "text": np.array([["a", "b", "c"]]),
    "complex": np.zeros((1, 3), np.complex64),
}


@pytest.mark.parametrize("module", [classification, embedding, tensors])
@pytest.mark.parametrize("broken", BROKEN)
def test_outputs_that_make_no_sense_are_refused(module: Any, broken: str) -> None:
    task = module.build(module.Settings(), (), [NUMBERS], IMAGE)
    with pytest.raises(ValueError, match="output 'scores'"):
        task.answers({"scores": BROKEN[broken]}, [Asked()])
    with pytest.raises(ValueError, match="no output 'scores'"):
        task.answers({"other": np.zeros((1, 3))}, [Asked()])


# --- classification ----------------------------------------------------------------------------------------------


def reference(logits: Array, k: int) -> list[dict[str, Any]]:
    """Softmax and the k best, one number at a time."""
    powers = [math.exp(float(x) - float(logits.max())) for x in logits]
    order = sorted(range(len(powers)), key=lambda index: (-powers[index], index))[:k]
    return [{"label": f"class {i}", "index": i, "probability": powers[i] / sum(powers)} for i in order]


def test_it_answers_what_a_slow_reference_does() -> None:
    names = tuple(f"class {index}" for index in range(1000))
    logits = np.random.default_rng(7).normal(0, 4, (6, 1000)).astype(np.float32)
    logits[1], logits[2, [3, 5, 7]] = 0, 30
    options: list[Any] = [{}, {}, {"top_k": 1}, {"top_k": 1000}, {"top_k": 7}, {}]
    task = classifier(names, [Spec("logits", "float32", (-1, 1000))])
    for found, row, option in zip(classified(logits, task, *options), logits, options, strict=True):
        expected = reference(row, option.get("top_k", 5))
        assert [p["index"] for p in found] == [p["index"] for p in expected]
        assert [p["label"] for p in found] == [p["label"] for p in expected]
        assert [p["probability"] for p in found] == pytest.approx([p["probability"] for p in expected], abs=1e-12)


def test_predictions_are_descending_and_of_equals_the_lower_index_is_first() -> None:
    [found] = classified([[1, 3, 3]], classifier())
    assert [p["index"] for p in found] == [1, 2, 0]
    assert found[0].keys() == {"label", "index", "probability"}
    assert sum(p["probability"] for p in found) == pytest.approx(1)


def test_rows_that_are_probabilities_already_are_kept_whatever_stands_beside_them() -> None:
    kept, softened = [0.1, 0.7, 0.2], [1.0, 7.0, 2.0]
    both = classified([kept, softened], classifier())
    assert both == [*classified([kept], classifier()), *classified([softened], classifier())]
    assert pairs(both[0]) == [("dog", 0.7), ("cow", 0.2), ("cat", 0.1)]
    assert both[1][0]["probability"] == pytest.approx(0.9909, abs=1e-4)


@pytest.mark.parametrize(
    ("activation", "row", "expected"),
    [
        ("auto", [0.5, 0.2, 0.3009], [("cat", 0.5), ("cow", 0.3009), ("dog", 0.2)]),
        ("auto", [0.5, 0.2, 0.302], [("cat", 0.3904), ("cow", 0.3203), ("dog", 0.2892)]),
        ("auto", [1.2, -0.2, 0.0], [("cat", 0.6461), ("cow", 0.1946), ("dog", 0.1593)]),
        ("softmax", [0, 1, 0], [("dog", 0.5761), ("cat", 0.2119), ("cow", 0.2119)]),
        ("softmax", [10_000, 0, -10_000], [("cat", 1), ("dog", 0), ("cow", 0)]),
        ("sigmoid", [0, 2, -10_000], [("dog", 0.8808), ("cat", 0.5), ("cow", 0)]),
        ("none", [0.9, 0.95, 1.0004], [("cow", 1), ("dog", 0.95), ("cat", 0.9)]),
    ],
)
def test_activations(activation: str, row: list[float], expected: list[tuple[str, float]]) -> None:
    [found] = classified([row], classifier(activation=activation))
    assert pairs(found) == expected


def test_what_is_no_probability_is_not_passed_for_one() -> None:
    with pytest.raises(ValueError, match="not probabilities"):
        classified([[0.5, 2.0, 0.1]], classifier(activation="none"))


@given(arrays.arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32)))
def test_any_logits_become_probabilities(rows: Array) -> None:
    for found in classified(rows, classifier()):
        probabilities = [p["probability"] for p in found]
        assert sum(probabilities) == pytest.approx(1, abs=1e-3)
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(0 <= p <= 1 for p in probabilities)


def test_what_a_manifest_should_say_of_the_activation() -> None:
    assert classification.activation_of(np.array([[0.2, 0.8], [1, 0]], np.float16)) == "none"
    assert classification.activation_of(np.array([[0.2, 0.8], [3, 0]], np.float16)) == "softmax"


def test_a_request_chooses_how_many_and_how_sure() -> None:
    task = classifier(top_k=2, threshold=0.15, activation="none")
    row = [0.1, 0.6, 0.2]
    options: list[dict[str, Any]] = [{}, {"top_k": 1}, {"top_k": 3, "threshold": 0.0}, {"threshold": 0.6}]
    found = classified([row] * 5, task, *options, {"threshold": 1})
    assert [len(predictions) for predictions in found] == [2, 1, 3, 1, 0]
    assert task.options["top_k"].whole
    assert (task.options["threshold"].low, task.options["threshold"].high) == (0, 1)


@pytest.mark.parametrize(
    "option",
    [{"top_k": value} for value in (0, 1001, 2.0, True, None, "5")]
    + [{"threshold": value} for value in (-0.1, 1.1, float("nan"), True, None, "0.5")],
)
def test_a_bad_option_is_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be a .*number from"):
        classified([[0, 0, 0]], classifier(), option)


def test_answers_are_tweaked_without_touching_the_model() -> None:
    task = classifier(
        activation="none", weights={"cat": 0.5, "1": 2}, adjust={"cow": -0.5, "dog": 0.1}, rename={"cat": "kitten"}
    )
    assert pairs(classified([[0.6, 0.3, 0.4]], task)[0]) == [("dog", 0.7), ("kitten", 0.3), ("cow", 0.0)]
    assert pairs(classified([[0.6, 0.9, 0.9]], task)[0]) == [("dog", 1.0), ("cow", 0.4), ("kitten", 0.3)]


def test_a_single_value_is_absence_and_presence() -> None:
    single = Spec("p", "float32", (-1, 1))
    task = classifier(("empty", "full"), [single], activation="sigmoid")
    assert pairs(classified([[2.0]], task)[0]) == [("full", 0.8808), ("empty", 0.1192)]
    assert pairs(classified([[0.25]], classifier((), [single], activation="none"))[0]) == [("0", 0.75), ("1", 0.25)]
    alone = classifier(("full",), [single], activation="none")
    assert pairs(classified([[0.25]], alone)[0]) == [("full", 0.25)]


def test_sides_of_one_do_not_count() -> None:
    task = classifier(outputs=[Spec("scores", "float32", (-1, 3, 1, 1))])
    assert pairs(classified([[[[0.2]], [[0.7]], [[0.1]]]], task)[0])[0] == ("dog", 0.7)


def test_classes_without_labels_are_numbers() -> None:
    assert pairs(classified([[0.2, 0.7, 0.1]], classifier(()))[0])[0] == ("1", 0.7)


TWO = [NUMBERS, Spec("features", "float32", (-1, 9))]
UNFIT: dict[str, tuple[Any, str]] = {
    "too few labels": ((ANIMALS[:2], [NUMBERS], {}), r"labels: there are 2, but output 'scores' has 3 classes"),
    "two labels, three classes": ((("a", "b"), [NUMBERS], {}), "has 3 classes"),
    "several outputs": ((ANIMALS, TWO, {}), "2 outputs, say which to read: scores, features"),
    "no outputs": ((ANIMALS, [], {}), "0 outputs"),
    "no such output": ((ANIMALS, TWO, {"output": "logits"}), "no output 'logits', there are scores, features"),
    "a picture": ((ANIMALS, [Spec("mask", "float32", (-1, 8, 8))], {}), "not one row for each image"),
    "a scalar": ((ANIMALS, [Spec("mean", "float32", ())], {}), "not one row for each image"),
    "a single value, auto": ((("a", "b"), [Spec("p", "float32", (-1, 1))], {}), 'say "sigmoid"'),
    "nobody knows how many": (((), [Spec("p", "float32", (-1, -1))], {}), "give their labels"),
    "weights": ((ANIMALS, [NUMBERS], {"weights": {"kitten": 2}}), "weights: there is no class 'kitten'"),
    "adjust": ((ANIMALS, [NUMBERS], {"adjust": {"3": 0.1}}), "adjust: there is no class '3'"),
    "rename": ((ANIMALS, [NUMBERS], {"rename": {"-1": "x"}}), "rename: there is no class '-1'"),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_what_does_not_fit_is_refused_when_it_is_loaded(unfit: str) -> None:
    (names, outputs, settings), message = UNFIT[unfit]
    with pytest.raises(ValueError, match=message):
        classifier(names, outputs, **settings)


def test_a_width_that_only_an_execution_tells_is_checked_then() -> None:
    task = classifier(ANIMALS, [Spec("scores", "float32", (-1, -1))])
    assert len(classified([[1, 2, 3]], task)[0]) == 3
    with pytest.raises(ValueError, match="4 classes, and 3 labels"):
        classified([[1, 2, 3, 4]], task)


@pytest.mark.parametrize(
    "settings", [{"top_k": 0}, {"top_k": 1001}, {"threshold": 2}, {"weights": {"a": float("inf")}}, {"activation": "x"}]
)
def test_a_bad_setting_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        classification.Settings.model_validate(settings)


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("cat\ndog\n", ("cat", "dog")), ("\ufeffcat\r\ndog", ("cat", "dog")), ("cat\n\n Kuh \n\n", ("cat", "", "Kuh"))],
)
def test_labels_from_a_file(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8", newline="")
    assert labels.read("labels.txt", tmp_path) == expected


def test_labels_from_the_manifest(tmp_path: Path) -> None:
    assert labels.read(["cat", "dog"], tmp_path) == ("cat", "dog")
    assert labels.read([], tmp_path) == labels.read("", tmp_path) == ()


@pytest.mark.parametrize("name", ["missing.txt", "../labels.txt", "/etc/hostname", ".", "latin.txt"])
def test_labels_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    (tmp_path / "labels.txt").write_text("outside")
    (folder / "latin.txt").write_bytes(b"K\xfche")
    with pytest.raises(ValueError, match="labels:"):
        labels.read(name, folder)


def test_a_repeated_label_means_every_class_of_that_name() -> None:
    assert labels.by_class(("crane", "boat", "crane"), {"crane": 2}, 1, setting="weights") == (2, 1, 2)
    assert labels.renamed(("crane", "boat", "crane"), {"2": "derrick"}) == ("crane", "boat", "derrick")
    assert labels.by_class(("1", "0"), {"0": 5}, 1, setting="weights") == (1, 5)


# --- embedding and tensors ---------------------------------------------------------------------------------------


def test_an_embedding_has_the_shortest_decimals() -> None:
    task = embedding.build(embedding.Settings(), (), [Spec("features", "float32", (-1, 1, 1, 3))], IMAGE)
    values = np.array([[[[0.1, 1 / 3, -2]]], [[[1e-7, 0, 12345.678]]]], np.float32)
    found = task.answers({"features": values}, [Asked(), Asked()])
    assert json.dumps(found) == ('[{"embedding": [0.1, 0.33333334, -2.0]}, {"embedding": [1e-07, 0.0, 12345.678]}]')


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float16]), (2, 5), elements={"allow_nan": False, "allow_infinity": False}
    )
)
def test_an_embedding_loses_nothing(values: Array) -> None:
    task = embedding.build(embedding.Settings(), (), [Spec("features", "float32", (-1, 5))], IMAGE)
    found = json.loads(json.dumps(task.answers({"features": values}, [Asked(), Asked()])))
    assert np.array_equal(np.array([answer["embedding"] for answer in found]).astype(values.dtype), values)


def test_tensors_are_every_output_as_it_is() -> None:
    specs = [Spec("boxes", "float32", (-1, 2, 2)), Spec("count", "int64", (-1,)), Spec("found", "bool", (-1, 1))]
    task = tensors.build(tensors.Settings(), (), specs, IMAGE)
    outputs: dict[str, Array] = {
        "boxes": np.array([[[0, 0.1], [2, 3]], [[4, 5], [6, 7]]], np.float32),
        "count": np.array([3, 2**60], np.int64),
        "found": np.array([[True], [False]]),
        "ignored": np.zeros(9),
    }
    first, second = task.answers(outputs, [Asked(), Asked()])
    assert json.loads(json.dumps(first)) == {
        "outputs": {
            "boxes": {"dtype": "float32", "shape": [2, 2], "data": [[0.0, 0.1], [2.0, 3.0]]},
            "count": {"dtype": "int64", "shape": [], "data": 3},
            "found": {"dtype": "bool", "shape": [1], "data": [True]},
        }
    }
    assert second["outputs"]["count"]["data"] == 2**60


def test_tensors_may_be_a_few_of_the_outputs() -> None:
    specs = [Spec("a", "float32", (-1, 2)), Spec("b", "float32", (-1, 2))]
    task = tensors.build(tensors.Settings(outputs=["b"]), (), specs, IMAGE)
    [answer] = task.answers({"a": np.zeros((1, 2)), "b": np.ones((1, 2))}, [Asked()])
    assert answer["outputs"].keys() == {"b"}
    with pytest.raises(ValueError, match="outputs: the network has no output 'c'"):
        tensors.build(tensors.Settings(outputs=["c"]), (), specs, IMAGE)


@pytest.mark.parametrize("module", [embedding, tensors])
def test_labels_that_nothing_would_show_are_refused(module: Any) -> None:
    with pytest.raises(ValueError, match="labels:"):
        module.build(module.Settings(), ("cat",), [NUMBERS], IMAGE)
