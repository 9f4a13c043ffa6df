"""docs/models.md has every key of the manifest with its default, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from worker.models import manifest, tasks
from worker.models.manifest import Hooks, Input, Manifest
from worker.models.tasks import boxes, ssd, yolo

PAGE = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
TABLES: dict[str, type[BaseModel]] = {
    "## model.toml": Manifest,
    "### `[input]`": Input,
    "### `[hooks]`": Hooks,
    **{f"### `[{task}]`": tasks.module_of(task).Settings for task in tasks.TASKS},
    "### `[detection.ssd]`": ssd.Settings,
    "### `[detection.yolo]`": yolo.Settings,
    "### `[detection.boxes]`": boxes.Settings,
}


def rows(heading: str) -> dict[str, str]:
    section = re.split(r"^#+ ", PAGE.partition(f"\n{heading}\n")[2], flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `(\w+)` \| *(?:`(.*?)`)? *\|", section, flags=re.MULTILINE))


def shown(default: Any) -> Any:
    """A default as the page gives it: none for a table, or for nothing."""
    if default is None or default is PydanticUndefined or isinstance(default, BaseModel):
        return None
    return list(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize(("heading", "table"), TABLES.items())
def test_every_key_and_its_default(heading: str, table: type[BaseModel]) -> None:
    written = {name: tomllib.loads(f"x = {text}")["x"] if text else None for name, text in rows(heading).items()}
    true = {name: shown(field.get_default(call_default_factory=True)) for name, field in table.model_fields.items()}
    if table is Manifest:
        true |= dict.fromkeys(tasks.TASKS)
    assert written == true


def test_the_example_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert manifest.parse(tomllib.loads(example)).model == "flowers"
