"""``file://``: discovery in one directory of one machine, the embedded default.

Every member is a small JSON file ``ROLE.NAME.json``, alive while its owner holds an flock on it: the kernel
drops the lock when the owner dies, however it dies. The owner locks a temporary file before it renames it
into place, so a file is never seen half-written or not yet locked. Whoever renames or removes a file holds an
flock on the directory itself meanwhile, so a dead owner's file is never confused with its successor's. The
directory must be on a local file system.

Watches poll: no event tells that a lock was released.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from discovery.background import Reachability, background, repeat
from discovery.file_values import FileValues
from discovery.folders import READ, WRITE_NEW, locked, opened
from discovery.latest import Latest
from discovery.member import Member, Role

POLL = 0.25
RECONCILE = 0.5
LARGEST_FILE = 1 << 20

log = logging.getLogger(__name__)

_Known = tuple[bytes | None, Member | str]  # a file's content, and its member or what is wrong with it


class FileDiscovery(FileValues):
    """Membership by a locked file in ``directory``, which the first member creates; values in a folder of it."""

    def __init__(self, directory: Path, *, snapshot_timeout: float | None = None) -> None:
        super().__init__(directory / "values")
        self._directory, self._snapshot_timeout = directory, snapshot_timeout

    def __repr__(self) -> str:
        return f"<FileDiscovery {self._directory}>"

    @asynccontextmanager
    async def membership(self, member: Member) -> AsyncIterator[FileMembership]:
        membership = FileMembership(self._directory, member)
        reachability = Reachability(f"registering {member.name} in {self._directory}", log)
        try:
            try:
                await membership.reconcile()
            except OSError as error:  # the loop goes on trying
                reachability.lost(error)
            loop = repeat(membership.reconcile, every=RECONCILE, reachability=reachability)
            async with background(loop, f"membership {member.name}"):
                yield membership
        finally:
            await asyncio.to_thread(membership.leave)

    @asynccontextmanager
    async def watch(self, role: Role) -> AsyncIterator[Latest]:
        latest, scan = Latest(role), _Scan(self._directory, role)
        reachability = Reachability(f"watching {self._directory}", log)

        async def poll() -> None:
            try:
                members = await asyncio.to_thread(scan.read)
            except FileNotFoundError:
                if latest.directory.index:  # somebody removed it: its members come back by themselves
                    raise
                members = []  # nobody has created it yet
            latest.publish(members)

        async with background(repeat(poll, every=POLL, reachability=reachability), f"watch {role}"):
            await latest.first(self._snapshot_timeout, reachability)
            yield latest


class FileMembership:
    """The file of one member, and the lock that says that its owner lives."""

    def __init__(self, directory: Path, member: Member) -> None:
        self._directory, self._member = directory, member
        self._written: Member | None = None
        self._file: int | None = None  # holds the lock
        self._left = self._yielded = False
        self._one_at_a_time = threading.Lock()  # a cancelled task leaves its thread behind

    def __repr__(self) -> str:
        return f"<FileMembership {_file_name(self._member)} in {self._directory}>"

    async def update(self, member: Member) -> None:
        self._member = member
        with suppress(OSError):  # the loop tries again, and says so
            await self.reconcile()

    async def reconcile(self) -> None:
        await asyncio.to_thread(self._reconcile)

    def _reconcile(self) -> None:
        with self._one_at_a_time:
            if self._left:
                return
            in_place = self._in_place()
            if in_place and self._written == self._member:
                return
            lost = self._file is not None and not in_place
            if lost and self._taken():
                if not self._yielded:
                    log.warning("%r is another living owner's: a name must be unique, the newest has it", self)
                self._yielded = True
                return
            self._write()
            self._yielded = False
            if lost:
                log.warning("%r was gone: written again", self)

    def _taken(self) -> bool:
        """Two living owners of a name must not push each other out for ever."""
        try:
            file = os.open(self._directory / _file_name(self._member), READ)
        except OSError:
            return False
        try:
            return not _lock_is_free(file)
        finally:
            os.close(file)

    def _in_place(self) -> bool:
        if self._file is None:
            return False
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._file), (self._directory / _file_name(self._member)).lstat())
        return False

    def _write(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        member, name = self._member, _file_name(self._member)
        temporary = f".{name}.tmp"
        with locked(self._directory) as directory:
            file = os.open(temporary, WRITE_NEW, 0o644, dir_fd=directory)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with os.fdopen(file, "wb", closefd=False) as stream:
                    stream.write(member.to_json().encode())
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.close(file)
                raise
        previous, self._file, self._written = self._file, file, member
        if previous is not None:
            os.close(previous)

    def leave(self) -> None:
        """Remove the file, if it is still ours. Without its lock it counts for nothing in any case."""
        with self._one_at_a_time:
            self._left = True
            if self._file is None:
                return
            try:
                with suppress(OSError), locked(self._directory) as directory:
                    _remove_if_same(directory, _file_name(self._member), os.fstat(self._file))
            finally:
                os.close(self._file)
                self._file = None


class _Scan:
    """Reads the living members of one role. Remembers every file, to parse it once and to complain once."""

    def __init__(self, directory: Path, role: Role) -> None:
        self._directory, self._role = directory, role
        self._known: dict[str, _Known] = {}

    def __repr__(self) -> str:
        return f"<_Scan {self._role} in {self._directory}: {len(self._known)} files>"

    def read(self) -> list[Member]:
        before, self._known = self._known, {}
        with opened(self._directory) as directory:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                if name.startswith(f"{self._role}.") and name.endswith(".json"):
                    known = self._look(directory, name, before.get(name))
                    if known is not None:
                        self._known[name] = known
                    if known is not None and known != before.get(name) and isinstance(known[1], str):
                        log.warning("ignored %r in %s: it %s", name, self._directory, known[1])
        return [found for _, found in self._known.values() if isinstance(found, Member)]

    def _look(self, directory: int, name: str, known: _Known | None) -> _Known | None:
        """What is in the file; none if it is gone or its owner is."""
        for _ in range(3):
            try:
                file = os.open(name, READ, dir_fd=directory)
            except FileNotFoundError:
                return None
            except OSError as error:
                return None, f"cannot be opened ({error.strerror})"
            try:
                status, found = os.fstat(file), self._parse(name, file, known)
                if isinstance(found[1], str) or not _lock_is_free(file):
                    return found
                if _is_same(directory, name, status):
                    if _remove_dead(directory, name, status):
                        log.info("removed %r of a dead owner in %s", name, self._directory)
                    return None
                # Its owner replaced it, and so released the old one's lock, as we looked: look again.
            except OSError as error:
                return None, f"cannot be read ({error.strerror})"
            finally:
                os.close(file)
        return None

    def _parse(self, name: str, file: int, known: _Known | None) -> _Known:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
            return None, "is no regular file or too large"
        content = os.pread(file, LARGEST_FILE, 0)
        if known is not None and known[0] == content:
            return known
        try:
            member = Member.from_json(content)
        except (ValueError, RecursionError) as error:
            return content, f"is not a member ({error})"
        if _file_name(member) != name:
            return content, f"is named like another member than it holds, {member!r}"
        return content, member


def _file_name(member: Member) -> str:
    return f"{member.role}.{member.slug}.json"


def _lock_is_free(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(directory: int, name: str, status: os.stat_result) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(status, os.stat(name, dir_fd=directory, follow_symlinks=False))
    return False


def _remove_if_same(directory: int, name: str, status: os.stat_result) -> bool:
    """The caller holds the directory's lock, so nobody can rename another file to ``name`` in between."""
    if not _is_same(directory, name, status):
        return False
    os.unlink(name, dir_fd=directory)
    return True


def _remove_dead(directory: int, name: str, status: os.stat_result) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # busy: the next look will do
        return False
    try:
        return _remove_if_same(directory, name, status)
    except OSError:  # not ours to remove: it is ignored all the same
        return False
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)
