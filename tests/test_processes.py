"""Children and their words: what else they print, what they leave behind, and that their end is always heard of."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from shoal.processes import Child

APART = "from shoal import processes; tell = processes.only_to_parent(); "


async def said(code: str) -> tuple[list[dict[str, Any]], int]:
    child = await Child.start("child", [sys.executable, "-c", code], orders={})
    try:
        async with asyncio.timeout(20):
            return [event async for event in child.events()], await child.wait()
    finally:
        await child.stop(0.1)


async def test_what_others_print_is_no_event() -> None:
    code = """
import os
print('{"event": "ready"}', flush=True)
os.system("echo '{}'")
tell({"event": "mine"})
"""
    assert await said(f"{APART}{code}") == ([{"event": "mine"}], 0)


async def test_a_line_without_an_end_is_dropped() -> None:
    code = "import sys; sys.stdout.write('x' * (40 << 20) + '\\n{\"event\": \"last\"}\\n')"
    assert await said(code) == ([{"event": "last"}], 0)


async def test_the_end_is_heard_of_while_something_holds_the_output() -> None:
    code = """
import os, time
tell({"event": "mine"})
if not os.fork():
    time.sleep(8)
os._exit(3)
"""
    async with asyncio.timeout(5):
        assert await said(f"{APART}{code}") == ([{"event": "mine"}], 3)
