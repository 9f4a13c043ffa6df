"""A cluster does what its users rely on: both ways in, every form of lookup, state that is true."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from shoal import errors
from shoal.client import Mode
from tests.clusters import Cluster
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("mode", ["direct", "proxy"])
def test_every_image_gets_its_own_answer(cluster: Cluster, mode: Mode) -> None:
    photos = [photo(seed) for seed in range(60)]
    with cluster.client(mode) as client:
        outcomes = list(client.predict_many(photos, concurrency=16))
    assert sorted(o.number for o in outcomes) == list(range(60))
    for outcome in outcomes:
        assert outcome.answer is not None, outcome.error
        assert outcome.answer.path == mode
        assert outcome.answer.predictions[0].label == fake_label(photos[outcome.number])


@pytest.mark.parametrize("mode", ["direct", "proxy"])
def test_both_workers_share_the_work(cluster: Cluster, mode: Mode) -> None:
    with cluster.client(mode) as client:
        outcomes = list(client.predict_many([photo(seed) for seed in range(80)], concurrency=16))
    shares = Counter(outcome.answer.worker for outcome in outcomes if outcome.answer)
    assert min(shares["worker1"], shares["worker2"]) >= 8, shares


def test_an_answer_says_where_it_came_from(cluster: Cluster) -> None:
    with cluster.client() as client:
        answer = client.predict(photo(1), top_k=2)
    assert (answer.model, answer.version) == ("fake", "1")
    assert len(answer.predictions) == 2
    assert len(answer.document["digest"]) == 64
    assert {"receive", "decode", "queue", "inference"} <= answer.document["timings"].keys()
    assert answer.document["attempt"] == 1


def test_the_sdk_takes_bytes_paths_and_open_files(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo(3))
    with cluster.client() as client, path.open("rb") as file:
        labels = {client.predict(image).predictions[0].label for image in (photo(3), path, str(path), file)}
    assert labels == {fake_label(photo(3))}


async def test_lookup_answers_json_text_and_a_port(cluster: Cluster) -> None:
    async with aiohttp.ClientSession(headers=cluster.headers) as session:
        lookup = f"{cluster.gateway}/lookup"
        async with session.get(lookup, params={"model": "fake", "n": "3"}) as response:
            document = await response.json()
        async with session.get(lookup, headers={"Accept": "text/plain"}) as response:
            text = await response.text()
        async with session.get(lookup, params={"format": "port"}) as response:
            port = await response.text()
    public = [worker["public_url"] for worker in cluster.document["workers"]]
    assert document["url"].removesuffix("/predict") in public
    assert (document["model"], document["version"], document["uses"]) == ("fake", "1", 3)
    assert 0 < document["expires_in"] <= 60
    assert text.endswith("\n")
    assert text.partition("/predict?ticket=")[0] in public
    assert f"http://127.0.0.1:{port.partition('/?ticket=')[0]}" in public


async def test_a_ticket_of_three_uses_serves_three_uploads(cluster: Cluster) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{cluster.gateway}/lookup?n=3", headers=cluster.headers) as response:
            grant = await response.json()
        headers = {"Authorization": f"Bearer {grant['ticket']}"}
        codes = []
        for seed in range(5):
            async with session.post(grant["url"], data=photo(seed), headers=headers) as response:
                codes.append((await response.json()).get("error", {}).get("code", "ok"))
    assert codes == ["ok", "ok", "ok", "spent_ticket", "spent_ticket"]


async def test_redirect_leads_to_a_worker(cluster: Cluster) -> None:
    async with aiohttp.ClientSession(headers=cluster.headers) as session:
        url = f"{cluster.gateway}/predict?redirect=1"
        async with session.post(url, data=photo(1), allow_redirects=False) as response:
            assert response.status == 307
            location = response.headers["Location"]
        async with session.post(location, data=photo(1), headers={"Authorization": "Bearer stale"}) as response:
            assert (await response.json())["predictions"][0]["label"] == fake_label(photo(1))


async def test_the_request_id_travels_to_the_model_process(cluster: Cluster) -> None:
    async with (
        aiohttp.ClientSession(headers=cluster.headers | {"X-Request-ID": "trace-me-42"}) as session,
        session.post(f"{cluster.gateway}/predict", data=photo(5)) as response,
    ):
        assert response.headers["X-Request-ID"] == "trace-me-42"
        assert "queue;dur=" in response.headers["Server-Timing"]
    roles = {record["role"] for record in cluster.log(request_id="trace-me-42")}
    executed = [record for record in cluster.log(message="executed") if "trace-me-42" in record["request_ids"]]
    assert roles >= {"gateway", "front"}
    assert len(executed) == 1


def test_a_deadline_is_for_the_whole_call(cluster: Cluster) -> None:
    started = time.monotonic()
    with cluster.client() as client, pytest.raises(errors.DeadlineExceeded):
        client.predict(photo(1), timeout=0.0)
    assert time.monotonic() - started < 2


def test_status_shows_every_worker(cluster: Cluster) -> None:
    with cluster.client() as client:
        status = client.status()
    assert [worker["name"] for worker in status["workers"]] == ["worker1", "worker2"]
    for worker in status["workers"]:
        assert worker["state"] == "ready"
        assert worker["models"]["fake@1"]["status"] == "ready"


async def test_health_and_metrics_are_on_the_internal_listener(cluster: Cluster) -> None:
    internal, public = cluster.worker(0)["internal_url"], cluster.worker(0)["public_url"]
    async with aiohttp.ClientSession() as session:
        for url, status in [
            (f"{internal}/readyz", 200),
            (f"{internal}/livez", 200),
            (f"{internal}/load", 200),
            (f"{internal}/metrics", 200),
            (f"{public}/livez", 200),
            (f"{public}/load", 404),
            (f"{public}/metrics", 404),
            (f"{cluster.gateway}/readyz", 200),
            (f"{cluster.gateway}/metrics", 404),
        ]:
            async with session.get(url) as response:
                assert response.status == status, url


async def test_metrics_count_every_image_of_the_node(cluster: Cluster) -> None:
    async def images() -> float:
        total = 0.0
        for worker in cluster.document["workers"]:
            async with session.get(f"{worker['internal_url']}/metrics") as response:
                for line in (await response.text()).splitlines():
                    if line.startswith("shoal_images_total"):
                        total += float(line.rpartition(" ")[2])
        return total

    async with aiohttp.ClientSession() as session, cluster.async_client("proxy") as client:
        before = await images()
        async for outcome in client.predict_many([photo(seed) for seed in range(50)]):
            assert outcome.error is None
        assert await images() - before == 50


def test_models_without_tensorflow_never_load_it(cluster: Cluster) -> None:
    for pid in cluster.all_pids():
        assert "tensorflow" not in Path(f"/proc/{pid}/maps").read_text()
