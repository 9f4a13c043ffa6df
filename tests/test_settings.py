"""Settings: where values come from, that nothing wrong goes unreported, and that no service opens itself up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal import cli
from shoal.settings import GatewaySettings, InvalidSettings, Settings, WorkerSettings, is_loopback

GATEWAY = ("--authentication", "off", "--ticket-key", "ticket.key")
ANY_SERVICE: list[tuple[type[Settings], tuple[str, ...]]] = [(GatewaySettings, GATEWAY), (WorkerSettings, ())]

PRECEDENCE = [
    # file, environment, command line, effective port
    ({}, {}, (), 8080),
    ({"port": 1}, {}, (), 1),
    ({"port": 1}, {"SHOAL_GATEWAY_PORT": "2"}, (), 2),
    ({"port": 1}, {"SHOAL_GATEWAY_PORT": "2"}, ("--port", "3"), 3),
    ({}, {"SHOAL_GATEWAY_PORT": "2"}, (), 2),
    ({}, {"shoal_gateway_port": "2"}, (), 2),
    ({}, {"SHOAL_WORKER_PORT": "2"}, (), 8080),
    ({"port": 1}, {}, ("--port=3",), 3),
    ({}, {}, ("--port", "3"), 3),
]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHOAL_CONFIG", raising=False)
    for service in ("GATEWAY", "WORKER"):
        monkeypatch.setenv(f"SHOAL_{service}_DISCOVERY", "static://127.0.0.1:1")


def config(text: str) -> str:
    Path("shoal.toml").write_text(text)
    return "shoal.toml"


def problems_of(service: type[Settings], *argv: str) -> tuple[str, ...]:
    with pytest.raises(InvalidSettings) as caught:
        service.load(argv)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(("table", "environ", "argv", "port"), PRECEDENCE)
def test_command_line_over_environment_over_file_over_default(
    table: dict[str, int],
    environ: dict[str, str],
    argv: tuple[str, ...],
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    file = config("[gateway]\n" + "".join(f"{name} = {value}\n" for name, value in table.items()))
    assert GatewaySettings.load(["--config", file, *GATEWAY, *argv]).port == port


@pytest.mark.parametrize(("service", "argv"), ANY_SERVICE)
def test_discovery_has_no_default(
    service: type[Settings], argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"SHOAL_{service.section.upper()}_DISCOVERY")
    assert problems_of(service, *argv) == ("discovery: Field required",)


def test_the_file_may_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_CONFIG", config("[gateway]\nport = 7\n[worker]\nport = 8\n"))
    assert (GatewaySettings.load(GATEWAY).port, WorkerSettings.load([]).port) == (7, 8)


def test_a_file_may_hold_everything() -> None:
    file = config('[worker]\nmodels = ["lite0", "fake"]\npublic = false\nredis = "/run/redis.sock"\ncapacity = 9\n')
    settings = WorkerSettings.load(["--config", file])
    assert (settings.models, settings.public, settings.redis, settings.capacity) == (
        ("lite0", "fake"),
        False,
        "/run/redis.sock",
        9,
    )


@pytest.mark.parametrize(
    ("text", "models"),
    [("lite0", ("lite0",)), ("lite0,fake?size=8", ("lite0", "fake?size=8")), (" lite0 , ,fake,", ("lite0", "fake"))],
)
def test_names_are_separated_by_commas(text: str, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert WorkerSettings.load(["--models", text]).models == models
    monkeypatch.setenv("SHOAL_WORKER_MODELS", text)
    assert WorkerSettings.load([]).models == models


@pytest.mark.parametrize(("argv", "public"), [((), True), (("--public",), True), (("--no-public",), False)])
def test_switches(argv: tuple[str, ...], public: bool) -> None:
    assert WorkerSettings.load(argv).public is public


def test_files_are_absolute_wherever_the_service_goes(tmp_path: Path) -> None:
    settings = GatewaySettings.load([*GATEWAY, "--api-keys", "~/keys"])
    assert (settings.ticket_key, settings.api_keys) == (tmp_path / "ticket.key", Path.home() / "keys")


def test_every_bad_value_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a bad value in each place that settings come from
    monkeypatch.setenv("SHOAL_GATEWAY_GRACE", "-1")
    monkeypatch.setenv("SHOAL_GATEWAY_GARCE", "1")
    file = config('[gateway]\nbalancer = "random"\nmax_bdoy_bytes = 5\n')
    # Then each has a line of its own
    problems = problems_of(GatewaySettings, "--config", file, *GATEWAY, "--port", "70000")
    named = sorted(problem.partition(":")[0] for problem in problems)
    assert named == ["SHOAL_GATEWAY_GARCE", "balancer", "grace", "max_bdoy_bytes", "port"]


@pytest.mark.parametrize(
    ("file", "environ", "named"),
    [
        ("[gateway]\nprot = 1\n", {}, "prot"),
        ("[gateway]\ncapacity = 1\n", {}, "capacity"),
        ("[gatewya]\nport = 1\n", {}, "unknown table gatewya"),
        ("port = 1\n", {}, "unknown table port"),
        ("gateway = 1\n", {}, "gateway is not a table"),
        ("[gateway\n", {}, "shoal.toml"),
        ("", {"SHOAL_GATEWAY_PROT": "1"}, "SHOAL_GATEWAY_PROT"),
        ("", {"SHOAL_GATEWAY_CAPACITY": "1"}, "SHOAL_GATEWAY_CAPACITY"),
        ("", {"SHOAL_GATEWAY_": "1"}, "SHOAL_GATEWAY_"),
    ],
)
def test_unknown_keys_are_errors(
    file: str, environ: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (problem,) = problems_of(GatewaySettings, "--config", config(file), *GATEWAY)
    assert named in problem


@pytest.mark.parametrize("argv", [("--prot", "1"), ("--por", "1"), ("stray",), ("--worker-port", "1")])
def test_an_unknown_flag_ends_with_a_usage_error(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, InvalidSettings)) as caught:
        GatewaySettings.load([*GATEWAY, *argv])
    assert argv[0] in (str(caught.value) + capsys.readouterr().err)
    assert not isinstance(caught.value, SystemExit) or caught.value.code == 2


def test_a_missing_file_is_an_error() -> None:
    (problem,) = problems_of(GatewaySettings, "--config", "nowhere.toml", *GATEWAY)
    assert problem.startswith("nowhere.toml: ")


@pytest.mark.parametrize(("service", "argv"), ANY_SERVICE)
def test_secrets_stay_secret(service: type[Settings], argv: tuple[str, ...]) -> None:
    settings = service.load([*argv, "--discovery-token", "hush-hush"])
    assert settings.discovery_token.get_secret_value() == "hush-hush"
    assert "hush" not in json.dumps(settings.effective()) + repr(settings) + str(settings)


def test_a_bad_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_GATEWAY_DISCOVERY_TOKEN", "hush-hush")
    assert "hush" not in "\n".join(problems_of(GatewaySettings, *GATEWAY, "--port", "x"))


LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"]
PUBLIC = [
    "0.0.0.0",
    "::",
    "[::]",
    "192.168.1.7",
    "10.0.0.1",
    "203.0.113.9",
    "fd00::1",
    "node-1",
    "localhost.evil.test",
    "",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_needs_no_authentication(host: str) -> None:
    assert is_loopback(host)
    assert GatewaySettings.load([*GATEWAY, "--host", host]).host == host
    assert WorkerSettings.load(["--host", host, "--internal-host", host]).host == host


@pytest.mark.parametrize("host", PUBLIC)
def test_a_public_address_without_authentication_is_refused(host: str) -> None:
    assert not is_loopback(host)
    (problem,) = problems_of(GatewaySettings, *GATEWAY, f"--host={host}")
    assert f"host {host} is refused" in problem
    for flag in ("--host", "--internal-host"):
        (problem,) = problems_of(WorkerSettings, f"{flag}={host}")
        assert "without ticket_keys" in problem


@pytest.mark.parametrize("host", PUBLIC)
def test_a_public_address_with_authentication_is_accepted(host: str) -> None:
    keys = ["--ticket-key", "t", "--api-keys", "k"]
    assert GatewaySettings.load([*keys, f"--host={host}"]).authentication == "required"
    assert WorkerSettings.load(["--ticket-keys", "t", f"--host={host}", f"--internal-host={host}"]).host == host


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), ["api_keys is missing", "ticket_key is missing"]),
        (("--ticket-key", "t"), ["api_keys is missing"]),
        (("--api-keys", "k"), ["ticket_key is missing"]),
        (("--authentication", "off", "--host", "0.0.0.0"), ["authentication is off", "ticket_key is missing"]),
    ],
)
def test_a_gateway_says_which_keys_it_needs(argv: tuple[str, ...], words: list[str]) -> None:
    text = "\n".join(problems_of(GatewaySettings, *argv))
    assert [word for word in words if word not in text] == []
    assert text.count("missing") == sum("missing" in word for word in words)


def test_the_command_prints_the_effective_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_GATEWAY_DISCOVERY_TOKEN", "hush-hush")
    assert cli.main(["settings", "gateway", *GATEWAY, "--port", "8099"]) == 0
    lines = dict(line.split(" = ", 1) for line in capsys.readouterr().out.splitlines())
    assert set(lines) == set(GatewaySettings.model_fields)
    assert (json.loads(lines["port"]), json.loads(lines["balancer"])) == (8099, "least_expected_wait")
    assert "hush" not in lines["discovery_token"]


@pytest.mark.parametrize("service", ["gateway", "worker"])
def test_the_command_prints_every_problem(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings", service, "--port", "x", "--grace", "y"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sorted(line.split(":")[1] for line in printed.err.splitlines()) == [" grace", " port"]
