"""What a supervisor makes of what the processes of a model version say."""

from __future__ import annotations

import pytest

from shoal.wire import ImageInput, ModelCard
from worker.devices import CPU, Device
from worker.models.catalogue import Specification
from worker.served_model import ModelProcess, ServedModel

CARD = ModelCard(
    model="digits",
    version="2",
    digest="d",
    task="classification",
    input=ImageInput("image", 28, 28, channels=1),
    max_batch_size=8,
)


def served(*devices: Device) -> ServedModel:
    return ServedModel(Specification("digits", "2"), devices or (CPU,), load_timeout=10)


def load(model: ServedModel, process: ModelProcess, seconds_per_image: float = 0.1) -> None:
    model.card = CARD
    process.loaded(CARD, seconds_per_image, hang_timeout=5)


def executed(process: ModelProcess, *, images: int, batches: int, seconds: float) -> None:
    counts = {"images": images, "batches": batches, "executions": batches, "seconds": seconds}
    process.executed(counts | {"longest": 0.0, "lasting": 0.0}, CARD.max_batch_size)


def test_two_devices_halve_what_an_image_costs_the_node() -> None:
    model = served(Device("gpu0"), Device("gpu1"))
    assert model.state.status == "loading"
    load(model, model.processes[0], 0.1)
    assert (model.state.status, model.state.processes, model.state.seconds_per_image) == ("ready", 1, 0.1)
    load(model, model.processes[1], 0.1)
    assert model.state.processes == 2
    assert model.state.seconds_per_image == pytest.approx(0.05)


def test_one_lost_device_leaves_the_model_ready_on_the_other() -> None:
    model = served(Device("gpu0"), Device("gpu1"))
    for process in model.processes:
        load(model, process)
    model.processes[0].died()
    assert (model.state.status, model.state.processes) == ("ready", 1)
    model.processes[1].died()
    assert model.state.status == "restarting"
    assert model.state.card == CARD


def test_the_cost_is_learnt_from_full_batches_and_from_quicker_ones() -> None:
    model = served()
    process = model.processes[0]
    load(model, process, 0.1)
    executed(process, images=1, batches=1, seconds=5.0)
    assert process.seconds_per_image == 0.1
    executed(process, images=9, batches=2, seconds=5.0 + 8 * 0.2)
    assert process.seconds_per_image == pytest.approx(0.13)
    executed(process, images=10, batches=3, seconds=6.6)
    assert process.seconds_per_image < 0.13


def test_a_model_without_executions_stalls_and_recovers() -> None:
    model = served()
    load(model, model.processes[0], 0.001)
    assert model.tick(1)
    assert model.note() == "ready"
    assert model.heartbeat() is None
    assert not model.tick(1)
    job = model.heartbeat()
    assert job is not None
    assert job.inputs["image"].shape == (28, 28, 1)
    assert model.tick(5)
    assert model.note() == "stalled"
    executed(model.processes[0], images=0, batches=1, seconds=0.0)
    assert model.tick(0)
    assert model.note() == "ready"


def test_the_time_to_load_begins_with_the_process() -> None:
    model = served()
    process = model.processes[0]
    model.tick(11)  # while it is fetched, or waits for memory
    process.begin()
    model.tick(9)
    assert not process.starting.is_hung
    model.tick(2)
    assert process.starting.silent == 11


def test_what_a_retired_and_a_failed_model_say() -> None:
    model = served()
    load(model, model.processes[0])
    model.retired.set()
    assert model.state.status == "stopping"
    other = served()
    assert not other.is_settled
    other.fail("its golden request was answered otherwise")
    assert (other.state.status, other.is_settled) == ("failed", True)
    assert other.state.reason == "its golden request was answered otherwise"


def test_counts_go_on_when_a_process_is_another_one() -> None:
    model = served()
    load(model, model.processes[0])
    executed(model.processes[0], images=8, batches=1, seconds=0.5)
    executed(model.processes[0], images=12, batches=2, seconds=0.8)
    model.processes[0].died()
    load(model, model.processes[0])
    executed(model.processes[0], images=2, batches=1, seconds=0.1)
    assert (model.state.images, model.state.busy) == (14, 0.9)
