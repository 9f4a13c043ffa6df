"""The documentation is true: its commands work, the reference is the code's, and the site builds without a warning."""

from __future__ import annotations

import importlib.metadata
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from discovery import blocking_query
from gateway import roster
from manual import bandwidth, reference, scaling
from shoal.settings import GatewaySettings
from tests.clusters import Cluster
from tests.needs import need
from tests.pages import ROOT, Unclear, reader, steps
from tests.photos import photo

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TYPED = [page for page in PAGES if "<!-- run -->" in page.read_text(encoding="utf-8")]
PROGRAMS = ("curl", "jq", "openssl", "nginx", "consul")
PACKAGES = ("keras", "mlxtend", "rapidocr-onnxruntime", "standardwebhooks", "tritonclient")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_is_run_or_says_why_not(page: Path) -> None:
    steps(page.read_text(encoding="utf-8"))


@pytest.mark.cluster
@pytest.mark.tensorflow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", TYPED, ids=named)
def test_the_commands_of_a_page(page: Path) -> None:
    found = steps(page.read_text(encoding="utf-8"))
    typed = "\n".join(step.text for step in found if step.kind != "left")
    with reader() as following:
        for program in PROGRAMS:
            need(program not in typed or following.has(program), f"{program} is not installed")
        for package in PACKAGES:
            need(package not in typed or is_installed(package), f"{package} is not installed")
        following.follow(found)


def is_installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("```sh\nls\n```\n", "line 1: neither run nor said why not"),
        ("<!-- not run -->\n```sh\nls\n```\n", "line 1: not run, and it does not say why"),
        ("<!-- run -->\n```\nshoal up\n```\n", "line 2: commands in a block that is not 'sh'"),
        ("<!-- never run -->\n", "line 1: what is <!-- never run -->"),
    ],
)
def test_an_unclear_page_is_refused(page: str, problem: str) -> None:
    with pytest.raises(Unclear, match=problem):
        steps(page)


def test_a_command_that_fails_is_found() -> None:
    with pytest.raises(AssertionError, match="line 3: exit code 1"), reader() as following:
        following.follow(steps("<!-- run -->\n<!-- before: export A=1 -->\n```sh\ntest $A = 2\n```\n"))


def test_a_page_is_followed_in_order() -> None:
    page = """<!-- run -->
<!-- file: folder/note.txt -->
```text
port 8080
```
```sh
export PORT=$(cut -d' ' -f2 folder/note.txt)
```
<!-- not run: it would end the test -->
```sh
exit 1
```
<!-- run -->
```python
import os, pathlib
assert os.environ["PORT"] == "8080".strip() != "80" + "80", "the same free port takes its place everywhere"
pathlib.Path("done").touch()
```
"""
    with reader() as following:
        following.follow(steps(page.replace('"8080"', '":8080"[1:]')))
        assert (following.folder / "done").exists()


def test_the_tables_of_the_bandwidth_are_computed() -> None:
    page = (ROOT / "docs" / "direct-upload.md").read_text(encoding="utf-8")
    assert f"<!-- table: loads -->\n\n{bandwidth.loads()}\n" in page, "python -m manual.bandwidth"
    assert f"<!-- table: limits -->\n\n{bandwidth.limits()}\n" in page, "python -m manual.bandwidth"


def test_the_tables_of_the_growth_are_computed() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name, table in (("units", scaling.units()), ("growth", scaling.growth()), ("limits", scaling.limits())):
        assert f"<!-- table: {name} -->\n\n{table}\n" in page, "python -m manual.scaling"


def test_the_model_of_the_growth_knows_how_gateways_behave() -> None:
    fields = GatewaySettings.model_fields
    assert fields["whole_fleet"].default == scaling.WHOLE_FLEET
    assert fields["gateways_per_worker"].default == scaling.GATEWAYS_PER_WORKER
    assert fields["poll_interval"].default == scaling.POLL_INTERVAL
    assert (roster.LONGEST_INTERVAL, roster.POLLS_PER_SECOND) == (scaling.LONGEST_INTERVAL, scaling.POLLS_PER_SECOND)
    assert (blocking_query.PAUSE, blocking_query.rest(1)) == (scaling.PAUSE, scaling.REST)


@pytest.mark.parametrize("nodes", [2, 200, 400])
def test_a_fleet_that_is_not_large_is_used_whole(nodes: int) -> None:
    assert scaling.plan(nodes).used == nodes


def test_a_gateway_of_a_large_fleet_costs_what_one_of_a_small_fleet_does() -> None:
    small, large = scaling.plan(200), scaling.plan(2000)
    assert large.gateway_polls <= small.gateway_polls
    assert large.worker_polls <= small.worker_polls
    assert 8 < large.gateways / small.gateways < 12


@pytest.mark.cluster
def test_a_lookup_and_an_answer_are_as_small_as_the_page_says(cluster: Cluster) -> None:
    image = photo(1)
    looked_up = on_the_wire(cluster, "GET /lookup")
    answered = on_the_wire(cluster, "POST /predict", image) - len(image)
    assert bandwidth.LOOKUP_BYTES * 0.6 < looked_up <= bandwidth.LOOKUP_BYTES
    assert bandwidth.ANSWER_BYTES * 0.4 < answered <= bandwidth.ANSWER_BYTES


def on_the_wire(cluster: Cluster, request: str, body: bytes = b"") -> int:
    """The bytes of a request as curl makes it, and of its answer."""
    host, port = cluster.gateway.removeprefix("http://").split(":")
    head = f"{request} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n"
    head += f"Authorization: Bearer {cluster.api_key}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    return len(head) + len(body) + len(answer)


@pytest.mark.parametrize("name", reference.pages())
def test_the_reference_is_the_codes(name: str) -> None:
    written = (reference.FOLDER / name).read_text(encoding="utf-8")
    assert written == reference.pages()[name], "make reference"


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    loads = re.compile(
        r"<(?:script|img|link rel=\"(?:stylesheet|preconnect|icon)\")[^>]*(?:src|href)=\"?(?:https?:)?//"
    )
    assert [page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=named)
def test_links_of_the_first_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / target).exists()] == []
