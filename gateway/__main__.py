"""``python -m gateway``: one gateway. ``shoal gateway`` is the same."""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from contextlib import AbstractAsyncContextManager

from prometheus_client import CollectorRegistry

import discovery
from discovery import Discovery, Member
from discovery.publications import Publications
from gateway.app import Gateway
from gateway.balancers import BALANCERS
from gateway.fleet import Fleet
from gateway.proxy import Proxy
from gateway.subsets import Subset
from shoal import admin, logs, metrics, notify, processes, service, tls, traces
from shoal.keys import KeyRing
from shoal.publication import PREFIX
from shoal.settings import GatewaySettings, InvalidSettings
from shoal.tickets import Signer
from shoal.version import VERSION

log = logging.getLogger("gateway")

_LAST_SECONDS = 15.0  # that ending may take beyond the grace and the drain


async def serve(
    settings: GatewaySettings,
    signer: Signer,
    keys: KeyRing | None,
    connecting: AbstractAsyncContextManager[Discovery],
    notifier: notify.Notifier,
) -> int:
    """The life of a gateway: know the fleet, listen, register; then leave, wait, finish, end."""
    stop = service.Stop()
    traces.configure(settings.traces)
    logs.configure(settings.log_level, role="gateway", instance=settings.name, pid=str(os.getpid()))
    lifeline = [service.hold_lifeline(service.lines_of_stdin())] if settings.lifeline else []
    registry = CollectorRegistry()
    gateway_metrics = metrics.GatewayMetrics(registry)
    metrics.watch_process(registry)
    public = service.bind(settings.host, settings.port)
    internal = service.bind(settings.internal_host, settings.internal_port)
    name = settings.name or f"{socket.gethostname()}-{public.getsockname()[1]}"
    public_url = settings.public_url or service.url_of(settings.host, public, encrypted=bool(settings.public_files))
    async with (
        service.background(*lifeline, notifier.keep_telling()),
        traces.tracing("gateway", name) as tracer,
        tls.followed(settings.public_files, "public") as public_certificate,
        tls.followed(settings.internal_files, "internal") as certificate,
        Proxy.open(calls := tls.Calls(certificate, "worker")) as proxy,
        connecting as backend,
        backend.watch("worker") as watch,
        backend.watch("gateway") as gateways,
        backend.watch_values(PREFIX) as values,
        Publications.follow(values) as publications,
        Fleet.follow(
            watch,
            BALANCERS[settings.balancer](),
            name=name,
            interval=settings.poll_interval,
            metrics=gateway_metrics,
            publications=publications,
            calls=calls,
            gateways=gateways,
            subset=Subset(name, above=settings.whole_fleet, copies=settings.gateways_per_worker),
        ) as fleet,
    ):
        notifier.need("polls of the workers", lambda: fleet.is_polling)
        stop.listen()  # before this there is nothing to drain, and a signal just ends the process
        gateway = Gateway(
            settings,
            name,
            fleet=fleet,
            proxy=proxy,
            signer=signer,
            keys=keys,
            gateway_metrics=gateway_metrics,
            registry=registry,
            tracer=tracer,
            certificates=(public_certificate, certificate),
        )
        member = Member(
            role="gateway",
            name=name,
            incarnation=uuid.uuid4().hex,
            internal_url=service.url_of(settings.internal_host, internal, encrypted=bool(certificate)),
            public_url=public_url,
            zone=settings.zone,
            version=VERSION,
        )
        description = {"name": name, "role": "gateway", "pids": {"gateway": [os.getpid()]}}
        async with (
            service.background(gateway.events.run()),
            admin.listening(settings.admin, admin.calls(lambda: description, stop), certificate),
            service.listening(
                gateway.internal_app(), [internal], drain_timeout=settings.drain_timeout, certificate=certificate
            ),
            service.listening(
                gateway.public_app(), [public], drain_timeout=settings.drain_timeout, certificate=public_certificate
            ),
        ):
            async with backend.membership(member):
                notifier.ready(f"ready: {fleet!r}")
                processes.tell_parent(
                    {
                        "event": "ready",
                        "gateway": name,
                        "public_url": public_url,
                        "internal_url": member.internal_url,
                        "ports": {"port": public.getsockname()[1], "internal-port": internal.getsockname()[1]},
                        "pids": description["pids"],
                    }
                )
                log.info("ready", extra={"gateway": name, "public_url": public_url, "fleet": repr(fleet)})
                await stop.requested()
                gateway.drain()
                notifier.draining("draining", seconds=settings.grace + settings.drain_timeout + _LAST_SECONDS)
                processes.tell_parent({"event": "draining"})
            await stop.grace(settings.grace)
    return 0


def main() -> int:
    try:
        settings = GatewaySettings.load(sys.argv[1:])
        assert settings.ticket_key is not None
        signer = Signer.load(settings.ticket_key)
        keys = KeyRing(settings.api_keys) if settings.authentication == "required" and settings.api_keys else None
        connecting = discovery.connect(settings.discovery, token=settings.discovery_token.get_secret_value() or None)
    except InvalidSettings as error:
        sys.stderr.write("".join(f"gateway: {problem}\n" for problem in error.problems))
        return 2
    except (OSError, ValueError) as error:
        sys.stderr.write(f"gateway: {error}\n")
        return 2
    if settings.lifeline:
        processes.die_with_parent()
    return service.run(serve(settings, signer, keys, connecting, notify.Notifier.from_environment()))


if __name__ == "__main__":
    raise SystemExit(main())
