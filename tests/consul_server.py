"""A real Consul for tests: one server on free ports of the loopback, stopped, killed and restarted at will."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from shoal.tls import Files

START_TIMEOUT = 30.0
ROOT = Path(__file__).parent.parent


def find_consul() -> str | None:
    """``CONSUL_BIN``, ``consul`` on PATH, or what tests/tools/consul.sh fetched."""
    fetched = ROOT / ".tools" / "consul"
    return os.environ.get("CONSUL_BIN") or shutil.which("consul") or (str(fetched) if fetched.exists() else None)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def free_port() -> int:
    """Free for TCP and UDP, and below the range from which the kernel takes ports for outgoing connections."""
    while True:
        port = random.randint(12000, 32000)
        try:
            with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port


class ConsulServer:
    """Entering starts it. ``persistent`` keeps its data over a restart; ``management`` is the token of
    default-deny ACLs, if any; ``tls`` adds an HTTPS port that wants client certificates; ``checks`` is the certificate
    that its agent, called ``node``, shows where it checks; ``dns`` opens a port for its names."""

    def __init__(
        self,
        binary: str,
        directory: Path,
        *,
        persistent: bool = False,
        management: str | None = None,
        tls: bool = False,
        checks: Files | None = None,
        dns: bool = False,
    ) -> None:
        self._binary, self._directory, self._persistent = binary, directory, persistent
        self._management, self._tls, self._checks = management, tls, checks
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.https_port = free_port(), free_port()
        self._ports = {"http": self.port, "dns": -1, "grpc": -1, "serf_wan": -1}
        self.dns_port = free_port() if dns else -1
        self._ports["dns"] = self.dns_port
        self._ports |= {"server": free_port(), "serf_lan": free_port()}

    def __repr__(self) -> str:
        return f"<ConsulServer on {self.port}, process {self._process and self._process.pid}>"

    def __enter__(self) -> ConsulServer:
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._tls:
            for command in ("ca create", "cert create -server", "cert create -client"):
                arguments = [self._binary, "tls", *command.split()]
                subprocess.run(arguments, cwd=self._directory, check=True, capture_output=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"consul://127.0.0.1:{self.port}"

    @property
    def tls_options(self) -> str:
        """For a ``consul+https://`` URL."""
        files = {"ca": "consul-agent-ca.pem", "cert": "dc1-client-consul-0.pem", "key": "dc1-client-consul-0-key.pem"}
        return "&".join(f"{option}={self._directory / name}" for option, name in files.items())

    def _settings(self) -> dict[str, Any]:
        answer = subprocess.run([self._binary, "version"], check=True, capture_output=True, text=True).stdout
        numbers = re.search(r"v(\d+)\.(\d+)", answer)
        version = (int(numbers[1]), int(numbers[2])) if numbers else (1, 8)
        settings: dict[str, Any] = {
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1 ::1" if has_ipv6() else "127.0.0.1",
            "ports": self._ports | ({"grpc_tls": -1} if version >= (1, 14) else {}),
            "disable_update_check": True,
            "dns_config": {"enable_truncate": True},
        }
        if self._persistent:
            settings |= {"server": True, "bootstrap_expect": 1, "data_dir": str(self._directory / "data")}
            settings["performance"] = {"raft_multiplier": 1}
        if self._management:
            tokens = {"initial_management" if version >= (1, 11) else "master": self._management}
            tokens["agent"] = self._management
            settings["acl"] = {"enabled": True, "default_policy": "deny", "tokens": tokens}
        if self._tls:
            settings["ports"] |= {"https": self.https_port}
            settings |= {"verify_incoming_https": True, "ca_file": str(self._directory / "consul-agent-ca.pem")}
            settings["cert_file"] = str(self._directory / "dc1-server-consul-0.pem")
            settings["key_file"] = str(self._directory / "dc1-server-consul-0-key.pem")
        if self._checks:
            certificate, key, ca = map(str, self._checks.all)
            settings |= {"node_name": "node", "enable_agent_tls_for_checks": True}
            settings |= {"cert_file": certificate, "key_file": key, "ca_file": ca}
        return settings

    def start(self) -> None:
        """Start and wait until it answers like production: a write goes through its leader."""
        (self._directory / "consul.json").write_text(json.dumps(self._settings()))
        arguments = [self._binary, "agent", "-config-file", str(self._directory / "consul.json")]
        arguments += [] if self._persistent else ["-dev"]
        with (self._directory / "consul.log").open("ab") as log:
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.call("PUT", "/v1/kv/shoal-tests/ready", "yes")
                return
            except OSError as error:
                text = (self._directory / "consul.log").read_text()
                if self._process.poll() is not None or time.monotonic() > give_up:
                    self.kill()
                    raise RuntimeError(f"Consul did not start: {text[-2000:]}") from error
            time.sleep(0.05)

    def stop(self) -> None:
        """Let it leave in order."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def call(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Any:
        """One request to its HTTP interface, with the management token by default."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        request.data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if token or self._management:
            request.add_header("X-Consul-Token", str(token or self._management))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            error.close()
            raise

    def token(self, rules: str) -> str:
        """A new token with one policy."""
        name = f"tests-{random.randrange(1 << 32):08x}"
        self.call("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        return str(self.call("PUT", "/v1/acl/token", {"Policies": [{"Name": name}]})["SecretID"])
