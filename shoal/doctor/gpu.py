"""NVIDIA's driver, and whether the installed runtimes get through it to the GPUs.

A runtime is imported in a process of its own: it takes gigabytes, may hang in a broken driver, and may crash.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.doctor.finding import Finding, ok, problem, warning
from shoal.doctor.host import Ran
from shoal.doctor.subject import Subject, last_line

_LIST = ("nvidia-smi", "--query-gpu=index,name,driver_version,memory.total", "--format=csv,noheader")
_DRIVERS = {11: 450, 12: 525, 13: 580}  # the first that runs programs of a CUDA major version (NVIDIA, compatibility)
_INSTALL = "install NVIDIA's driver, 550 or later, and restart the machine"

_PROBE = """
import ctypes, importlib.util, json, sys
def loads(name):
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
def say(version, cuda, cudnn, gpus, libraries=()):
    missing = [name for name in libraries if not loads(name)]
    print(json.dumps({"version": version, "cuda": cuda, "cudnn": cudnn, "gpus": gpus, "missing": missing}))
"""
_SO = "[f'lib{n}.so.{c.split(\".\")[0]}' for n, c in (('cudart', cuda), ('cudnn', cudnn)) if c]"


@dataclass(frozen=True)
class Runtime:
    """A framework that executes models: how to ask it, and what its build for GPUs is called."""

    module: str
    question: str
    install: str


RUNTIMES = (
    Runtime(
        "tensorflow",
        "import tensorflow as m; info = m.sysconfig.get_build_info(); "
        "cuda, cudnn = info.get('cuda_version'), info.get('cudnn_version'); "
        "gpus = len(m.config.list_physical_devices('GPU')); "
        f"say(m.__version__, cuda, cudnn, gpus, () if gpus else {_SO})",
        "pip install 'tensorflow[and-cuda]'",
    ),
    Runtime(
        "torch",
        "import torch as m; v = m.backends.cudnn.version(); "
        "say(m.__version__, m.version.cuda, v and str(v // 10000), m.cuda.device_count())",
        "install the build of torch for CUDA",
    ),
    Runtime(
        "jax",
        "import jax as m; gpus = sum(d.platform != 'cpu' for d in m.devices()); "
        "has = importlib.util.find_spec('jax_cuda12_plugin') or importlib.util.find_spec('jax_cuda13_plugin'); "
        "say(m.__version__, has and has.name[8:10], None, gpus)",
        "pip install 'jax[cuda12]'",
    ),
    Runtime(
        "onnxruntime",
        "import onnxruntime as m; has = 'CUDAExecutionProvider' in m.get_available_providers(); "
        "cuda = has and (getattr(m, 'cuda_version', '') or '12') or None; cudnn = has and '9' or None; "
        f"say(m.__version__, cuda, cudnn, None, {_SO})",
        "pip install onnxruntime-gpu, in place of onnxruntime",
    ),
)
_ENVIRON = {"TF_CPP_MIN_LOG_LEVEL": "3", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Driver:
    """What ``nvidia-smi`` says: the GPUs, a line each, the driver's version, and the newest CUDA that it runs."""

    gpus: Sequence[str] = ()
    version: str = ""
    cuda: tuple[int, int] | None = None
    failure: str | None = None  # None where there is no nvidia-smi and nothing to say


@dataclass(frozen=True)
class Report:
    """What a runtime says of itself. ``gpus`` is None when it does not say how many it sees."""

    version: str
    cuda: str | None
    cudnn: str | None
    gpus: int | None
    missing: Sequence[str] = field(default=())


async def gpu_driver(subject: Subject) -> list[Finding]:
    driver = await _driver(subject)
    nouveau = subject.host.path("/sys/module/nouveau").exists()
    return [judge_driver(driver, has_gpu=subject.has_gpu, nouveau=nouveau, devices=subject.setting("devices"))]


async def _driver(subject: Subject) -> Driver | None:
    listed = await subject.host.run(*_LIST)
    if listed is None:
        return None
    return parse_driver(listed, await subject.host.run("nvidia-smi"))


def parse_driver(listed: Ran, table: Ran | None) -> Driver:
    if listed.code != 0:
        return Driver(failure=last_line(listed.output or listed.complaint))
    lines = [line.strip() for line in listed.output.splitlines() if line.count(",") >= 3]
    found = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", table.output if table else "")
    version = lines[0].split(",")[2].strip() if lines else ""
    return Driver(lines, version, (int(found[1]), int(found[2])) if found else None)


def judge_driver(driver: Driver | None, *, has_gpu: bool, nouveau: bool, devices: str) -> Finding:
    """``driver`` is None where there is no nvidia-smi; ``devices`` is the setting."""
    wanted = [] if devices in ("auto", "cpu") else devices.split(",")
    if driver is None:
        if has_gpu:
            advice = f"{_INSTALL}; take nouveau away first" if nouveau else _INSTALL
            return problem("there is a GPU of NVIDIA, and no driver for it", advice)
        if wanted:
            return problem(f"devices names GPU {devices}, and there is none", "set devices to auto or cpu")
        return ok("no GPU: models execute on the CPU")
    if driver.failure is not None:
        advice = "restart the machine: the driver was updated under the running kernel module"
        return problem(driver.failure, advice if "mismatch" in driver.failure else _INSTALL)
    there = [gpu.split(",")[0].strip() for gpu in driver.gpus]
    if missing := [number for number in wanted if number not in there]:
        return problem(
            f"devices names GPU {', '.join(missing)}; there are {', '.join(there) or 'none'}", "see nvidia-smi"
        )
    if not driver.gpus:
        return problem("the driver is there and sees no GPU", "see 'dmesg | grep -i nvrm', and that the card is seated")
    names = [gpu.split(",")[1].strip() for gpu in driver.gpus]
    cuda = f", CUDA up to {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else ""
    return ok(f"{len(names)} GPU ({', '.join(sorted(set(names)))}), driver {driver.version}{cuda}")


async def runtimes(subject: Subject) -> list[Finding]:
    """One finding for each runtime that is installed."""
    there = [runtime for runtime in RUNTIMES if is_installed(runtime.module)]
    if not there:
        return [warning("no runtime is installed", "pip install 'shoal[onnx]', or tensorflow, jax, torch")]
    driver = await _driver(subject)
    if driver is None or not driver.gpus or subject.setting("devices") == "cpu":
        return [ok(f"{', '.join(r.module for r in there)}: on the CPU")]
    return [await _ask(subject, runtime, driver) for runtime in there]


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


async def _ask(subject: Subject, runtime: Runtime, driver: Driver) -> Finding:
    ran = await subject.host.run(sys.executable, "-c", _PROBE + runtime.question, environ=_ENVIRON)
    report, failure = parse_report(ran)
    return judge_runtime(runtime, report, failure, driver)


def parse_report(ran: Ran | None) -> tuple[Report | None, str]:
    """The report, or None and what went wrong."""
    for line in reversed(ran.output.splitlines() if ran else ()):
        try:
            document: Mapping[str, Any] = json.loads(line)
            return Report(**document), ""
        except (ValueError, TypeError):
            continue  # runtimes print what they like
    return None, last_line(ran.complaint if ran else "")


def judge_runtime(runtime: Runtime, report: Report | None, failure: str, driver: Driver) -> Finding:
    name = runtime.module
    if report is None:
        return problem(f"{name} cannot be imported: {failure}", f"install it again: {runtime.install}")
    found = f"{name} {report.version}"
    if not report.cuda:
        return warning(f"{found} is a build without CUDA: its models execute on the CPU", runtime.install)
    found += f", for CUDA {report.cuda}{f' and cuDNN {report.cudnn}' if report.cudnn else ''}"
    major = int(report.cuda.partition(".")[0])
    if driver.cuda is not None and major > driver.cuda[0]:
        advice = f"install a driver of version {_DRIVERS.get(major, 'that its makers name')} or later"
        return problem(
            f"{found}; the driver {driver.version} runs CUDA up to {driver.cuda[0]}.{driver.cuda[1]}", advice
        )
    if report.missing:
        return problem(f"{found}, and {', '.join(report.missing)} cannot be loaded", f"install them: {runtime.install}")
    if report.gpus == 0:
        return problem(f"{found}, and it sees no GPU", f"see what it prints when it is imported; or {runtime.install}")
    return ok(found + ("" if report.gpus is None else f", sees {report.gpus} of {len(driver.gpus)} GPUs"))
