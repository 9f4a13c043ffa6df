"""What an instance can learn about itself: AWS's instance metadata service, version 2, which takes a token.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html
"""

from __future__ import annotations

import http.client
import json
from typing import Any

from cloud.errors import CloudError

ADDRESS = "169.254.169.254"

_TIMEOUT = 5.0
_TOKEN_SECONDS = 21600


class Instance:
    """The instance on which we run. Each question is one request; it raises ``CloudError`` when there is no answer."""

    def __init__(self, address: str = ADDRESS) -> None:
        self._address = address
        self._token = ""

    @property
    def id(self) -> str:
        return self._known("instance-id")

    @property
    def ip(self) -> str:
        """Its address in the cluster's network."""
        return self._known("local-ipv4")

    @property
    def zone(self) -> str:
        return self._known("placement/availability-zone")

    def leaving(self) -> str:
        """Why this instance is to go; empty while it is to stay."""
        if self._asked("autoscaling/target-lifecycle-state") == "Terminated":
            return "its group terminates it"
        notice = self._asked("spot/instance-action")
        if notice is None:
            return ""
        action: dict[str, Any] = json.loads(notice)
        return f"spot interruption: {action['action']} at {action['time']}"

    def _known(self, name: str) -> str:
        answer = self._asked(name)
        if answer is None:
            raise CloudError(f"the metadata service has no {name}")
        return answer

    def _asked(self, name: str) -> str | None:
        """What the service says of ``name``; None when there is nothing of that name."""
        for _ in range(2):
            self._token = (
                self._token
                or self._request("PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)})[1]
            )
            status, text = self._request("GET", f"meta-data/{name}", {"X-aws-ec2-metadata-token": self._token})
            if status != http.client.UNAUTHORIZED:
                break
            self._token = ""  # it has expired
        if status == http.client.NOT_FOUND:
            return None
        if status != http.client.OK:
            raise CloudError(f"the metadata service answered {status} for {name}")
        return text

    def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT)
        try:
            connection.request(method, f"/latest/{path}", headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise CloudError(f"the metadata service does not answer: {error}") from error
        finally:
            connection.close()
