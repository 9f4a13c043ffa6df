"""A process that is one worker, as discovery sees it: for tests that kill it.

Arguments: the discovery URL and the worker's name. Prints its internal URL when it has entered its
membership, and leaves when its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from discovery import Member, connect


async def live(url: str, name: str) -> None:
    async def ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    internal_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    member = Member("worker", name, incarnation=f"{name}-1", internal_url=internal_url)
    async with connect(url) as discovery, discovery.membership(member):
        print(internal_url, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:]))
