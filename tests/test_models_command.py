"""``shoal models`` and ``shoal serve``: verbs against discovery in files, and one cluster that follows them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

import discovery
from shoal.client import AsyncClient
from shoal.publication import Publication, Published
from tests import small_networks as small
from tests.clusters import eventually, is_running, up
from tests.consul_server import ConsulServer
from tests.discovery_tools import consul_binary
from tests.photos import photo
from tests.test_sources import Quiet, web
from worker.models.digests import digest_of
from worker.repository import __main__ as program
from worker.repository import editing, publishing
from worker.repository.waiting import NotLoaded, progress, until_ready

Run = Callable[..., tuple[int, str, str]]

NET = (
    "import numpy as np\n"
    "class Net:\n"
    "    outputs = ('scores',)\n"
    "    def __init__(self, folder): pass\n"
    "    def __call__(self, batch):\n"
    "        light = batch.reshape(len(batch), -1).mean(1)\n"
    "        return np.stack([light, 1 - light], 1)\n"
)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SHOAL_DISCOVERY", f"file://{tmp_path / 'members'}")
    monkeypatch.setenv("SHOAL_REPOSITORY", str(tmp_path / "repository"))
    monkeypatch.delenv("SHOAL_GATEWAY", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = program.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = int(str(stopped.code))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def net(tmp_path: Path) -> str:
    """A model that answers ``light`` or ``dark``."""
    folder = tmp_path / "art"
    folder.mkdir()
    (folder / "day.py").write_text(NET)
    (folder / "labels.txt").write_text("light\ndark\n")
    return f"{folder / 'day.py'}:Net"


def published(tmp_path: Path, model: str = "day") -> Publication | None:
    async def ask() -> Publication | None:
        async with discovery.connect(f"file://{tmp_path / 'members'}") as backend:
            return await publishing.published(backend, model)

    return asyncio.run(ask())


def test_the_life_of_a_model(tmp_path: Path, run: Run, net: str) -> None:
    first = tmp_path / "repository" / "day" / "1"
    code, out, err = run("add", net)
    assert (code, err) == (0, "")
    assert "task: classification, one output 'scores' of 2 numbers" in out
    assert out.endswith(f"day@1 is published: file://{first}\n")
    found = published(tmp_path)
    assert found is not None
    assert {v: (p.source, p.digest) for v, p in found.versions.items()} == {"1": (f"file://{first}", digest_of(first))}

    assert run("label", "day", "stable", "1")[0] == 0
    code, out, _ = run("add", net, "--set", "max_batch_size=3", "--label", "canary")
    assert out.endswith("it takes over from version 1 on each worker where it is ready\n")
    code, out, _ = run("traffic", "day", "stable=90", "canary=10")
    assert (code, out.splitlines()[1].split("  ")[-2]) == (0, "stable 90 %, canary 10 %")
    code, out, _ = run("add", net, "--set", "max_batch_size=4", "--json")
    document = json.loads(out)
    assert (document["version"], sorted(document["versions"]), document["traffic"]) == (
        "3",
        ["1", "2", "3"],
        {"stable": 90, "canary": 10},
    )
    code, out, _ = run("add", net, "--set", "max_batch_size=5", "--keep", "0")
    assert "traffic stays with version 1 and 2: 'shoal models traffic day 4=100' moves it\n" in out
    assert "no longer served: 3\n" in out

    assert run("rollback", "day")[0] == 0
    assert run("rollback", "day")[2] == "shoal: day has no version before 1, which has the traffic\n"
    code, _, err = run("remove", "day@1")
    assert (code, err) == (
        1,
        "shoal: day@1 is in use: the label stable is for version 1; traffic goes to 1. --force takes that away too\n",
    )
    assert run("remove", "day@1", "--force")[0] == 0
    assert run("traffic", "day", "latest")[0] == 0
    assert run("label", "day", "canary", "--remove")[0] == 0
    assert run("place", "day", "gpu-*", "zone-a")[0] == 0
    code, out, _ = run("show", "day", "--json")
    shown = json.loads(out)
    assert (sorted(shown["versions"]), shown["labels"], shown["traffic"], shown["placement"]) == (
        ["2", "4"],
        {},
        {},
        ["gpu-*", "zone-a"],
    )
    assert run("list")[1].splitlines()[1].split() == ["day", "2,", "4", "-", "the", "newest", "gpu-*,", "zone-a"]
    assert run("place", "day", "everywhere")[0] == 0
    assert run("remove", "day") == (0, "day is no longer served\n", "")
    assert run("list") == (0, "nothing is published\n", "")
    assert {path.name for path in first.parent.iterdir()} == {"1", "2", "3", "4"}
    assert run("add", first.parent / "2", "--set", "threads=1")[2].endswith(
        "is published as it lies: it takes no --set, --labels or --golden\n"
    )
    code, out, _ = run("add", first.parent / "2")
    assert out.endswith(f"day@2 is published: file://{first.parent / '2'}\n")
    assert run("list", "--json")[1].count('"model"') == 1


def test_in_consul(tmp_path: Path, run: Run, net: str) -> None:
    with ConsulServer(consul_binary(), tmp_path / "consul") as consul:
        where = ("--discovery", consul.url)
        assert run("add", net, *where)[0] == 0
        assert run("label", "day", "stable", "1", *where)[0] == 0
        assert run("list", *where)[1].splitlines()[1].split() == ["day", "1", "stable=1", "the", "newest", "everywhere"]
        assert run("remove", "day", "--force", *where)[0] == 0
        assert run("list", *where)[1] == "nothing is published\n"
    code, out, err = run("add", net, *where)
    assert (code, out, err.startswith("shoal: discovery: ")) == (1, "", True)


def test_an_archive_and_a_folder(tmp_path: Path, run: Run) -> None:
    folder = small.version(tmp_path / "small" / "1", "net.py:Model", small.save_python)
    assert run("add", folder)[0] == 0
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as bundle:
        bundle.add(folder, "x")
    assert run("add", tmp_path / "x.tar.gz", "--name", "other", "--sha256", digest_of(tmp_path / "x.tar.gz"))[0] == 0
    assert sorted(p.name for p in (tmp_path / "repository").iterdir()) == ["other", "small"]
    code, _, err = run("add", tmp_path / "x.tar.gz", "--sha256", "0" * 64)
    assert (code, "has the sha256" in err) == (1, True)


def test_a_url_is_published_as_it_is(tmp_path: Path, run: Run, net: str) -> None:
    assert run("add", net)[0] == 0
    prepared = tmp_path / "repository" / "day" / "1"
    with tarfile.open(tmp_path / "art" / "day.tar.gz", "w:gz") as bundle:
        bundle.add(prepared, ".")
    with web(partial(Quiet, directory=tmp_path / "art")) as server:
        url = f"{server}/day.tar.gz"
        assert run("add", url)[2] == (
            "shoal: over http:// anybody on the way could change the model: say --sha256, or use https://\n"
        )
        code, out, _ = run("add", url, "--sha256", digest_of(prepared), "--version", "7")
    assert (code, out.splitlines()[0]) == (0, f"day@7 is published: {url}")
    found = published(tmp_path)
    assert found is not None
    assert found.versions["7"] == Published(url, digest_of(prepared), found.versions["7"].at)


def test_init_and_check(tmp_path: Path, run: Run, net: str) -> None:
    code, out, _ = run("init", net, "--set", "input.height=40", "--set", "input.width=60")
    assert code == 0
    target = tmp_path / "art" / "model.toml"
    assert out.startswith(f"{target} was written.")
    assert 'artefact = "day.py:Net"' in target.read_text()
    assert run("init", net)[2] == f"shoal: {target} is there already; --force writes over it\n"
    code, out, _ = run("check", tmp_path / "art", "--json")
    assert (code, json.loads(out)["task"]) == (0, "classification")
    target.write_text('artefact = "gone.onnx"\ncolour = 1\n')
    code, out, err = run("check", tmp_path / "art")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 3
    assert all(line.startswith("shoal: ") for line in err.splitlines())
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("add", "/no/such.onnx"), 1, "there is no /no/such.onnx"),
        (("add", "NET", "--version", "0"), 1, "'0' is not a version"),
        (("add", "NET", "--label", "1st"), 1, "'1st' is not a label"),
        (("add", "NET", "--name", "a b"), 1, "'a b' is not a model's name"),
        (("add", "NET", "--keep", "-1"), 2, "not a whole number"),
        (("add", "NET", "--set", "input"), 2, "'input' is not KEY=VALUE"),
        (("add", "NET", "--wait", "5"), 2, "--wait asks a gateway"),
        (("add", "NET", "--discovery", "etcd://x"), 2, "discovery: a discovery URL starts with"),
        (("add", "NET", "--discovery", "static://127.0.0.1:1"), 1, "discovery: "),
        (("add", "NET", "--discovery", ""), 2, "which cluster?"),
        (("add", "NET", "--repository", ""), 2, "where to?"),
        (("add", "memory://nothing/there"), 1, "there is nothing at memory://nothing/there"),
        (("show", "nothing"), 1, "no model 'nothing' is published"),
        (("remove", "nothing"), 1, "no model 'nothing' is published"),
        (("label", "nothing", "stable"), 2, "a label is for a VERSION, or goes with --remove"),
        (("traffic", "nothing", "latest", "1=1"), 2, "traffic goes by weights, or to the latest"),
        (("traffic", "nothing", "one"), 2, "neither VERSION=WEIGHT nor 'latest'"),
        (("convert", "NET", "/tmp/never.onnx"), 1, "only Keras models and SavedModels are converted"),
        (("frobnicate",), 2, "invalid choice"),
    ],
)
def test_what_is_asked_wrongly(run: Run, net: str, arguments: tuple[str, ...], code: int, reason: str) -> None:
    found, out, err = run(*(net if argument == "NET" else argument for argument in arguments))
    assert (found, out) == (code, "")
    assert reason in err
    assert "Traceback" not in err


def test_two_add_at_once(tmp_path: Path, run: Run, net: str) -> None:
    command = [sys.executable, "-m", "shoal.cli", "models", "add", net, "--json"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [json.loads(process.communicate(timeout=100)[0]) for process in started]
    assert sorted(document["version"] for document in said) == ["1", "2", "3"]
    assert {path.name for path in (tmp_path / "repository" / "day").iterdir()} == {"1", "2", "3"}
    assert run("remove", "day@3")[0] == 0


@pytest.mark.tensorflow
@pytest.mark.timeout(300)
def test_convert(tmp_path: Path, run: Run) -> None:
    small.save_keras(tmp_path / "small.keras")
    code, out, _ = run("convert", tmp_path / "small.keras", tmp_path / "made.onnx")
    assert (code, out.splitlines()[0]) == (0, f"{tmp_path / 'made.onnx'} was written.")
    assert run("check", tmp_path / "made.onnx")[0] == 0


def test_without_discovery_nothing_is_prepared(tmp_path: Path, run: Run, net: str) -> None:
    (tmp_path / "members").write_text("a file where the folder should be")
    code, _, err = run("add", net)
    assert (code, err.startswith("shoal: discovery: ")) == (1, True)
    assert not (tmp_path / "repository").exists()


def test_two_operators_never_undo_one_another(tmp_path: Path) -> None:
    async def work() -> Publication | None:
        async with discovery.connect(f"file://{tmp_path / 'members'}") as backend:
            first = Published("file:///x", "0" * 64)
            await publishing.change(backend, "day", lambda _: Publication("day", {"1": first}))

            async def label(number: int) -> None:
                await publishing.change(
                    backend, "day", lambda p: editing.label(p or Publication("day"), f"l{number}", "1")
                )

            await asyncio.gather(*(label(number) for number in range(8)))
            return await publishing.published(backend, "day")

    found = asyncio.run(work())
    assert found is not None
    assert sorted(found.labels) == [f"l{number}" for number in range(8)]


def test_what_is_no_publication_is_said(tmp_path: Path, run: Run) -> None:
    async def spoil() -> None:
        async with discovery.connect(f"file://{tmp_path / 'members'}") as backend:
            await backend.put("models/day", "{}", index=0)

    asyncio.run(spoil())
    for verb in (("show", "day"), ("list",), ("rollback", "day")):
        code, _, err = run(*verb)
        assert (code, err.startswith("shoal: what is published as day is not a publication: ")) == (1, True)


def worker(name: str, zone: str = "", **models: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "zone": zone, "models": {key.replace("_", "@"): state for key, state in models.items()}}


def test_progress() -> None:
    everywhere, placed = Publication("day"), Publication("day", placement=["b", "zone-c"])
    workers = [worker("a", day_1={"status": "ready"}), worker("b", day_1={"status": "loading"}), worker("c", "zone-c")]
    assert progress(workers, everywhere, "day@1") == {"a": "ready", "b": "loading", "c": "not begun"}
    assert progress(workers, placed, "day@1") == {"b": "loading", "c": "not begun"}
    assert progress([{**workers[2], "state": "draining"}], everywhere, "day@1") == {}
    workers[0]["models"]["day@1"] = {"status": "failed", "reason": "no memory"}
    assert progress(workers, placed, "day@1")
    with pytest.raises(NotLoaded, match="a cannot load day@1: no memory"):
        progress(workers, everywhere, "day@1")


class _Gateway:
    """Says these states in turn."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self._states = iter(states)

    async def __aenter__(self) -> _Gateway:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def status(self) -> dict[str, Any]:
        return next(self._states)


@pytest.mark.parametrize("elsewhere", [0, 30])
def test_who_waits_hears_of_workers_that_the_gateway_does_not_use(elsewhere: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("worker.repository.waiting._INTERVAL", 0)
    states = [
        {"workers": [worker("a", day_1={"status": status})], "elsewhere": elsewhere} for status in ("loading", "ready")
    ]
    told: list[str] = []
    asyncio.run(until_ready(cast(AsyncClient, _Gateway(*states)), Publication("day"), "1", 30, told.append))
    warnings = [line for line in told if line.startswith("warning: ")]
    assert told[len(warnings) :] == ["a: loading", "a: ready"]
    assert [("leaves 30 to others" in line) for line in warnings] == ([True] if elsewhere else [])


def shoal(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, timeout=100, check=False)


@pytest.mark.cluster
def test_a_cluster_follows(net: str) -> None:
    with up("--workers", "2", "--model", "none") as cluster:
        environ = {
            "SHOAL_GATEWAY": cluster.gateway,
            "SHOAL_API_KEY": cluster.api_key,
            "SHOAL_DISCOVERY": cluster.document["discovery"],
            "SHOAL_REPOSITORY": cluster.document["repository"],
        }
        done = shoal("models", "add", net, "--wait", "60", environ=environ)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "day@1 is ready"
        with cluster.client() as client:
            answer = client.predict(photo(1), model="day")
            assert (answer.version, {p.label for p in answer.predictions}) == ("1", {"light", "dark"})
            file = Path(net.partition(":")[0])
            file.write_text(NET.replace("__init__(self, folder): pass", "__init__(self, folder): raise OSError"))
            spoilt = shoal("models", "add", net, environ=environ)
            assert (spoilt.returncode, spoilt.stdout) == (1, "")
            file.write_text(NET.replace("light, 1 - light", "1 - light, light"))
            assert shoal("models", "add", net, "--wait", "60", environ=environ).returncode == 0
            eventually(lambda: client.predict(photo(1), model="day").version == "2", within=20, what="version 2")
        shown = shoal("models", "show", "day", environ=environ)
        assert shown.stdout.count("ready") == 4
        assert shoal("models", "remove", "day", environ=environ).returncode == 0


def test_files_of_the_user_are_not_imported(tmp_path: Path, net: str) -> None:
    for name in ("queue", "numpy", "worker", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported what the user has here')\n")
    command = [sys.executable, "-P", "-m", "shoal.cli", "models", "check", net]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        yield folder


@contextmanager
def served(source: object, scratch: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """``shoal serve`` and what it prints."""
    command = [sys.executable, "-m", "shoal.cli", "serve", str(source), "--json", "--no-auth", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": scratch}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, json.loads(line)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()


def labels_of(document: dict[str, Any], image: bytes) -> set[str]:
    """What curl gets for a picture."""
    sent = ["curl", "-sS", "--data-binary", "@-", f"{document['gateway']}/predict"]
    answer = json.loads(subprocess.run(sent, input=image, capture_output=True, check=True).stdout)
    return {prediction["label"] for prediction in answer["predictions"]}


@pytest.mark.cluster
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_serve_a_file_and_leave_nothing(scratch: str, net: str, number: signal.Signals) -> None:
    with served(net, scratch, "--set", "input.height=20") as (process, document):
        assert (document["models"], len(document["workers"])) == (["day@1"], 1)
        assert labels_of(document, photo(1)) == {"light", "dark"}
        process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.read().startswith(
            "day is served. What nobody said was taken as follows:\n  format: python"
        )
        assert process.wait(30) == (0 if number == signal.SIGTERM else -9)
    eventually(lambda: not list(Path(scratch).iterdir()), within=10, what="an empty folder")
    eventually(
        lambda: not any(is_running(pid) for pids in document["pids"].values() for pid in pids), within=5, what="all end"
    )


@pytest.mark.cluster
@pytest.mark.tensorflow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "build"), [("small.onnx", small.save_onnx), ("small.keras", small.save_keras)])
def test_serve_real_files(scratch: str, tmp_path: Path, name: str, build: Callable[[Path], None]) -> None:
    build(tmp_path / name)
    (tmp_path / "labels.txt").write_text("\n".join(small.LABELS))
    with served(tmp_path / name, scratch) as (_, document):
        assert labels_of(document, photo(1)) == set(small.LABELS)


def test_serve_says_what_is_wrong(scratch: str) -> None:
    done = shoal("serve", "/no/such.onnx", environ={"TMPDIR": scratch})
    assert (done.returncode, done.stderr) == (1, "shoal: there is no /no/such.onnx\n")
    assert list(Path(scratch).iterdir()) == []


@pytest.mark.parametrize("verb", [("models", "--help"), ("models", "add", "--help"), ("serve", "--help")])
def test_help(verb: tuple[str, ...]) -> None:
    done = shoal(*verb, environ={})
    assert (done.returncode, done.stdout.startswith("usage: shoal")) == (0, True)
