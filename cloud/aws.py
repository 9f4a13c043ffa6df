"""AWS's interfaces, as few of them as we need: parameters, an auto-scaling group, one metric."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cloud.errors import CloudError

NAMESPACE = "Shoal"
METRIC = "DesiredWorkers"
ADVANCED_BYTES = 4096
"""A parameter that is larger is an advanced one, which AWS charges for; the largest has twice as many."""

_CONFIG = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 4})
_NOBODY_WAITS = "No active Lifecycle Action found"


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise CloudError(f"{what}: {error}") from error


def _client(service: str, region: str) -> Any:
    with _translated(f"no access to {service}"):
        return boto3.client(service, region_name=region or None, config=_CONFIG)


class Parameters:
    """Secrets below a path of the Systems Manager's Parameter Store."""

    def __init__(self, region: str = "") -> None:
        self._ssm = _client("ssm", region)

    def below(self, path: str) -> dict[str, str]:
        """Every parameter below ``path``, decrypted, by the rest of its name."""
        found: dict[str, str] = {}
        with _translated(f"parameters below {path}"):
            pages = self._ssm.get_paginator("get_parameters_by_path")
            for page in pages.paginate(Path=path, Recursive=True, WithDecryption=True):
                for parameter in page["Parameters"]:
                    found[parameter["Name"].removeprefix(path).lstrip("/")] = parameter["Value"]
        return found

    def put(self, name: str, text: str, *, key: str = "") -> None:
        """Write a parameter, encrypted with ``key`` or else with AWS's own."""
        tier = "Advanced" if len(text.encode()) > ADVANCED_BYTES else "Standard"
        chosen = {"KeyId": key} if key else {}
        with _translated(f"parameter {name}"):
            self._ssm.put_parameter(Name=name, Value=text, Type="SecureString", Overwrite=True, Tier=tier, **chosen)


@dataclass(frozen=True)
class Capacity:
    """How many instances a group may have, and should have now."""

    minimum: int
    maximum: int
    desired: int


class Group:
    """An auto-scaling group."""

    def __init__(self, name: str, region: str = "") -> None:
        self.name = name
        self._autoscaling = _client("autoscaling", region)

    def capacity(self) -> Capacity:
        with _translated(f"group {self.name}"):
            groups = self._autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        for group in groups["AutoScalingGroups"]:
            return Capacity(group["MinSize"], group["MaxSize"], group["DesiredCapacity"])
        raise CloudError(f"there is no group {self.name}")

    def want(self, instances: int) -> None:
        with _translated(f"group {self.name}"):
            self._autoscaling.set_desired_capacity(
                AutoScalingGroupName=self.name, DesiredCapacity=instances, HonorCooldown=False
            )

    def complete(self, hook: str, instance: str) -> bool:
        """Have the group go on with an instance; False when it does not wait for that."""
        return self._answer("complete_lifecycle_action", hook, instance, LifecycleActionResult="CONTINUE")

    def wait_longer(self, hook: str, instance: str) -> bool:
        """Have the group wait for an instance from now on; False when it does not wait for it at all."""
        return self._answer("record_lifecycle_action_heartbeat", hook, instance)

    def _answer(self, call: str, hook: str, instance: str, **more: str) -> bool:
        try:
            getattr(self._autoscaling, call)(
                AutoScalingGroupName=self.name, LifecycleHookName=hook, InstanceId=instance, **more
            )
        except ClientError as error:
            if _NOBODY_WAITS in str(error):
                return False
            raise CloudError(f"group {self.name}: {error}") from error
        except BotoCoreError as error:
            raise CloudError(f"group {self.name}: {error}") from error
        return True


class Wishes:
    """What each gateway says of how many workers a group should have: a metric, in which all of them meet."""

    def __init__(self, group: str, region: str = "") -> None:
        self._dimensions = [{"Name": "Group", "Value": group}]
        self._cloudwatch = _client("cloudwatch", region)

    def say(self, workers: int) -> None:
        with _translated("metric"):
            self._cloudwatch.put_metric_data(
                Namespace=NAMESPACE,
                MetricData=[{"MetricName": METRIC, "Dimensions": self._dimensions, "Value": workers, "Unit": "Count"}],
            )

    def greatest(self, minutes: int) -> int | None:
        """The greatest of the last minutes; None when nobody said anything."""
        now = datetime.now(UTC)
        with _translated("metric"):
            found = self._cloudwatch.get_metric_statistics(
                Namespace=NAMESPACE,
                MetricName=METRIC,
                Dimensions=self._dimensions,
                StartTime=now - timedelta(minutes=minutes),
                EndTime=now + timedelta(minutes=1),  # the present minute too
                Period=60,
                Statistics=["Maximum"],
            )
        return max((int(point["Maximum"]) for point in found["Datapoints"]), default=None)
