"""What ``shoal nginx`` does with the machine: its folder, and the process of somebody else's nginx."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nginx.program import NotDone, Program
from shoal.nginx_settings import NginxSettings


def program(tmp_path: Path) -> Program:
    """One whose nginx agrees with every file."""
    place = ("--folder", f"{tmp_path}/bodies", "--file", f"{tmp_path}/nginx.conf", "--pid-file", f"{tmp_path}/pid")
    return Program(NginxSettings.load(["--gateways", "http://h:1", "--nginx", "true", *place]), (1, 22, 1))


def a_link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")


def a_file(folder: Path) -> None:
    folder.touch()


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def a_link_within(folder: Path) -> None:
    folder.mkdir()
    (folder / "body").symlink_to("/")


def somebody_else_s(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, 12345, 12345)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (a_link, "is a link"),
        (a_file, "or no folder"),
        (open_to_all, "written by everybody"),
        (a_link_within, "body is a link"),
        pytest.param(
            *(somebody_else_s, "belongs to the user with the number 12345"),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder away"),
        ),
    ],
)
async def test_a_folder_that_somebody_else_prepared_is_refused(
    tmp_path: Path, prepare: Callable[[Path], None], words: str
) -> None:
    prepare(tmp_path / "bodies")
    with pytest.raises(NotDone, match=words):
        await program(tmp_path).install("text")
    assert not (tmp_path / "nginx.conf").exists()


async def test_the_folder_is_ours_to_write(tmp_path: Path) -> None:
    ours = program(tmp_path)
    for _ in range(2):
        await ours.install("text")
        assert (tmp_path / "bodies").stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "nginx.conf").read_text() == "text"


async def test_an_empty_pid_file_is_of_no_process(tmp_path: Path) -> None:
    """`nginx -t` leaves one."""
    ours = program(tmp_path)
    await ours.reload()
    (tmp_path / "pid").touch()
    await ours.reload()
    (tmp_path / "pid").write_text("word")
    with pytest.raises(NotDone, match="pid"):
        await ours.reload()
