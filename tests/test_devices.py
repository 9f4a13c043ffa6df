"""What a node finds to execute models on."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker import devices

LISTING = ["0, GPU-aaaa, 24576", "1, GPU-bbbb, 81559"]


def test_what_nvidia_smi_prints_becomes_devices() -> None:
    first, second = devices.parse(LISTING)
    assert (first.name, first.memory_bytes) == ("gpu0", 24576 * 1024 * 1024)
    assert second.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb"
    assert second.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


@pytest.mark.parametrize("line", ["", "No devices were found", "0, GPU-x, [N/A]", "a, b, c, d"])
def test_what_it_cannot_say_is_left_out(line: str) -> None:
    assert [device.name for device in devices.parse([line, *LISTING])] == ["gpu0", "gpu1"]


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``nvidia-smi`` that lists two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(f"'{line}'" for line in LISTING) + "\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("wanted", "names"), [("auto", ["gpu0", "gpu1"]), ("1", ["gpu1"]), ("1,0", ["gpu1", "gpu0"]), ("cpu", ["cpu"])]
)
async def test_the_setting_chooses(wanted: str, names: list[str]) -> None:
    assert [device.name for device in await devices.find(wanted)] == names


@pytest.mark.usefixtures("gpus")
async def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(devices.NoSuchDevice, match="no gpu2 here; there are gpu0, gpu1"):
        await devices.find("0,2")


async def test_without_a_driver_there_is_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await devices.find("auto") == [devices.CPU]


async def test_a_driver_that_fails_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-x, 100'\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert await devices.find("auto") == [devices.CPU]
