"""The curl lines of the two origin systems work against us, and their answers keep their shapes."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import Cluster, up
from tests.needs import need
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster

Way = Callable[[Cluster, str, Path], str]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """As the origin systems were run: on this machine, without keys."""
    need(shutil.which("curl"), "curl is not installed")
    with up("--workers", "2", "--model", "fake", "--no-auth") as running:
        yield running


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "jemma.png"
    path.write_bytes(photo(11, kind="PNG"))
    return path


def shell(line: str, folder: Path) -> str:
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True).stdout


def by_gateway(cluster: Cluster, path: str, folder: Path) -> str:
    return cluster.gateway + path


def at_a_worker(cluster: Cluster, path: str, folder: Path) -> str:
    address = shell(f"curl -s -H 'Accept: text/plain' '{cluster.gateway}/lookup'", folder).strip()
    return address.replace("/predict?", f"{path}?")


def by_redirect(cluster: Cluster, path: str, folder: Path) -> str:
    return f"{cluster.gateway}{path}?redirect=1"


@pytest.mark.parametrize("way", [by_gateway, at_a_worker, by_redirect])
@pytest.mark.parametrize("path", ["/predict", "/"])
@pytest.mark.parametrize("body", ["-F image=@jemma.png", "-F data=@jemma.png", "--data-binary @jemma.png"])
def test_every_path_takes_every_body(cluster: Cluster, image: Path, way: Way, path: str, body: str) -> None:
    url = way(cluster, path, image.parent)
    answer = json.loads(shell(f"curl -s -L -X POST {body} '{url}'", image.parent))
    first = answer["predictions"][0]["label"] if path == "/predict" else answer[0][0]
    assert first == fake_label(image.read_bytes())


@pytest.mark.parametrize("way", [by_gateway, at_a_worker])
def test_answers_keep_their_shape(cluster: Cluster, image: Path, way: Way) -> None:
    """{"predictions": [{"label", "probability"}], "success": true}, the greatest first, and more keys."""
    url = way(cluster, "/predict", image.parent)
    answer = json.loads(shell(f"curl -s -X POST -F image=@jemma.png '{url}'", image.parent))
    assert answer["success"] is True
    assert all(isinstance(p["label"], str) and 0 <= p["probability"] <= 1 for p in answer["predictions"])
    probabilities = [p["probability"] for p in answer["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_pairs_of_label_and_score(cluster: Cluster, image: Path) -> None:
    answer: list[Any] = json.loads(shell(f"curl -s -F data=@jemma.png {cluster.gateway}/", image.parent))
    assert all(isinstance(label, str) and 0 <= score <= 1 for label, score in answer)


def test_lookup_then_post_as_one_line(cluster: Cluster, image: Path) -> None:
    line = f"curl -s -XPOST localhost:`curl -s '{cluster.gateway}/lookup?format=port'` -F data=@jemma.png"
    assert json.loads(shell(line, image.parent))[0][0] == fake_label(image.read_bytes())


def test_lookup_then_post_to_a_whole_address(cluster: Cluster, image: Path) -> None:
    line = f'curl -s -F image=@jemma.png "$(curl -s -H "Accept: text/plain" {cluster.gateway}/lookup)"'
    answer = json.loads(shell(line, image.parent))
    assert answer["predictions"][0]["label"] == fake_label(image.read_bytes())


def test_redirect(cluster: Cluster, image: Path) -> None:
    line = f"curl -s -L -F image=@jemma.png '{cluster.gateway}/predict?redirect=1'"
    assert json.loads(shell(line, image.parent))["success"] is True


def test_welcome(cluster: Cluster, image: Path) -> None:
    assert shell(f"curl -s {cluster.gateway}/", image.parent).startswith("Welcome to Shoal")


@pytest.mark.parametrize("way", [by_gateway, at_a_worker])
def test_no_image_is_an_error_by_status_too(cluster: Cluster, image: Path, way: Way) -> None:
    url = way(cluster, "/predict", image.parent)
    line = f"curl -s -o answer -w '%{{http_code}}' -X POST -F nothing=1 '{url}'"
    assert shell(line, image.parent) == "400"
    assert json.loads((image.parent / "answer").read_text())["success"] is False


def test_the_lines_stand_in_the_readme() -> None:
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    lines = [shlex.split(line, comments=True) for line in readme.splitlines() if line.startswith("curl ")]
    assert any("image=@cat.jpg" in words and any(w.endswith("/predict") for w in words) for words in lines)
    assert "localhost:`curl" in readme
