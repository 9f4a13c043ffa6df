"""A whole cluster on this machine that classifies real photos, both ways in: ``make demo``."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from shoal import AsyncClient
from shoal.client import Mode
from shoal.launcher import DidNotStart, Plan, cluster

PHOTOS = sorted((Path(__file__).parent / "photos").glob("*.jpg"))
CLASSIFIER, EMBEDDING = "lite0", "lite1-embedding"


async def main() -> int:
    started = time.monotonic()
    print("Starting a gateway and two workers with EfficientNet-Lite on TensorFlow ...", flush=True)
    async with cluster(Plan(workers=2, models=(CLASSIFIER, EMBEDDING))) as running:
        print(
            f"ready after {time.monotonic() - started:.0f} s: {running.gateways[0]}, models {', '.join(running.models)}"
        )
        modes: tuple[Mode, ...] = ("proxy", "direct")
        for mode in modes:
            how = "through the gateway" if mode == "proxy" else "by lookup, then upload straight to a worker"
            print(f"\n{how}:")
            async with AsyncClient(running.gateways[0], api_key=running.api_key, mode=mode) as client:
                for photo in PHOTOS:
                    answer = await client.predict(photo, model=CLASSIFIER, top_k=3)
                    names = ", ".join(f"{p.label} ({p.index}) {p.probability:.3f}" for p in answer.predictions)
                    print(f"  {photo.name:<12} {names}   [{answer.worker}]")
                    if answer.path != mode:
                        print(f"  it went by {answer.path}, not by {mode}")
                        return 1
                answer = await client.predict(PHOTOS[0], model=EMBEDDING)
                vector = answer.document["embedding"]
                print(f"  {PHOTOS[0].name:<12} {len(vector)} floats: {' '.join(f'{x:.4f}' for x in vector[:6])} ...")
        print("\nstopping ...", flush=True)
    print("stopped; nothing is left running")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except DidNotStart as error:
        sys.exit(f"the cluster did not start: {error}")
