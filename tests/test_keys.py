"""API keys: shown once, kept only as hashes, and followed while the gateway runs."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal import keys
from shoal.errors import InvalidKey, MissingKey, ShoalError
from shoal.keys import Holder, InvalidKeyFile, KeyRing

HASH = "0123456789abcdef" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api-keys"


def accepts(ring: KeyRing, key: str) -> bool:
    try:
        ring.holder(key)
    except InvalidKey:
        return False
    return True


def soon(condition: Callable[[], bool]) -> None:
    """A change counts within a second; half a second more for a busy machine."""
    give_up = time.monotonic() + 1.5
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("\n\n  \n# nobody yet\n", []),
        (f"alice sha256:{HASH}\n", ["alice"]),
        (f"  alice \t sha256:{HASH}  \r\n", ["alice"]),
        (f"# staff\nalice sha256:{HASH}\n\nb.o_b-2 sha256:{HASH[::-1]}", ["alice", "b.o_b-2"]),
    ],
)
def test_what_a_key_file_says(text: str, names: list[str]) -> None:
    assert [holder.name for holder in keys.parse(text).values()] == names


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("alice", "1"),
        (f"alice {HASH}", "1"),
        (f"alice md5:{HASH}", "1"),
        (f"alice sha256:{HASH.upper()}", "1"),
        (f"alice sha256:{HASH}0", "1"),
        (f"alice sha256:{HASH[1:]}", "1"),
        (f"al/ice sha256:{HASH}", "1"),
        (f"{'a' * 65} sha256:{HASH}", "1"),
        (f"alice sha256:{HASH} # mine", "1"),
        (f"bad\nalice sha256:{HASH}\n# fine\nworse\n", "1, 4"),
    ],
)
def test_every_bad_line_is_named(text: str, lines: str) -> None:
    with pytest.raises(InvalidKeyFile, match=f"in line {lines}$"):
        keys.parse(text)


def test_a_new_key_opens_and_is_nowhere_in_the_file(file: Path) -> None:
    alice, bob = keys.add(file, "alice"), keys.add(file, "bob")
    text = file.read_text()
    for secret in (alice, bob):
        assert secret.startswith("shoal_")
        assert len(secret) >= 40
        assert secret.removeprefix("shoal_") not in text
    ring = KeyRing(file)
    assert (ring.holder(alice).name, ring.holder(bob).name) == ("alice", "bob")
    assert repr(ring) == "<KeyRing 2 keys>"


@pytest.mark.parametrize("before", ["", "# staff\n", f"carol sha256:{HASH}\n", f"carol sha256:{HASH}"])
def test_a_key_is_added_behind_what_is_there(file: Path, before: str) -> None:
    file.write_text(before)
    key = keys.add(file, "alice")
    assert file.read_text().startswith(before)
    assert KeyRing(file).holder(key).name == "alice"
    assert (Holder("carol") in keys.parse(file.read_text()).values()) is ("carol" in before)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a" * 65, "#", "a\n"])
def test_a_name_that_the_file_cannot_hold_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a key's name is"):
        keys.add(file, name)
    assert not file.exists()


def test_a_name_has_one_key(file: Path) -> None:
    key = keys.add(file, "alice")
    with pytest.raises(ValueError, match="already"):
        keys.add(file, "alice")
    assert KeyRing(file).holder(key).name == "alice"


def test_nothing_is_added_to_a_broken_file(file: Path) -> None:
    file.write_text("alice\n")
    with pytest.raises(InvalidKeyFile):
        keys.add(file, "bob")
    assert file.read_text() == "alice\n"


def test_a_removed_key_is_gone_and_the_rest_stays(file: Path) -> None:
    alice, bob = keys.add(file, "alice"), keys.add(file, "bob")
    file.write_text("# staff\n" + file.read_text())
    keys.remove(file, "alice")
    assert file.read_text().startswith("# staff\nbob sha256:")
    ring = KeyRing(file)
    assert (accepts(ring, alice), accepts(ring, bob)) == (False, True)
    with pytest.raises(ValueError, match="no key named 'alice'"):
        keys.remove(file, "alice")


def test_only_the_owner_reads_the_file(file: Path) -> None:
    keys.add(file, "alice")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    for change in (lambda: keys.add(file, "bob"), lambda: keys.remove(file, "bob")):
        change()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_is_not_a_wrong_key(file: Path, key: str | None) -> None:
    keys.add(file, "alice")
    with pytest.raises(MissingKey):
        KeyRing(file).holder(key)


def test_a_hash_is_not_a_key(file: Path) -> None:
    keys.add(file, "alice")
    with pytest.raises(InvalidKey):
        KeyRing(file).holder(file.read_text().rpartition(":")[2].strip())


@settings(deadline=None)
@given(st.text(st.characters()))
@example("\udcff")  # how a header's byte that is not UTF-8 arrives
@example("\ud800")
def test_no_text_does_worse_than_being_unknown(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any-keys"
    file.write_text(f"alice sha256:{HASH}\n")
    with pytest.raises((InvalidKey, MissingKey)):
        KeyRing(file).holder(text)


def test_a_change_counts_without_a_restart(file: Path) -> None:
    # Given a running gateway that knows alice
    alice = keys.add(file, "alice")
    ring = KeyRing(file)
    assert ring.holder(alice).name == "alice"
    # When bob is added, he may call
    bob = keys.add(file, "bob")
    soon(lambda: accepts(ring, bob))
    assert accepts(ring, alice)
    # And when alice is removed, she may not
    keys.remove(file, "alice")
    soon(lambda: not accepts(ring, alice))
    assert accepts(ring, bob)


@pytest.mark.parametrize("breakage", ["bad line", "not text", "gone"])
def test_a_broken_file_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture, breakage: str) -> None:
    # Given a running gateway, and a file that breaks
    alice = keys.add(file, "alice")
    good, ring = file.read_text(), KeyRing(file)
    match breakage:
        case "bad line":
            file.write_text("alice\n")
        case "not text":
            file.write_bytes(b"\xff\xfe")
        case "gone":
            file.unlink()
    # When the gateway has noticed
    soon(lambda: accepts(ring, alice) and "not reloaded" in caplog.text)
    # Then the old keys stay, and a mended file counts again
    assert accepts(ring, alice)
    assert alice not in caplog.text
    file.write_text(good)
    bob = keys.add(file, "bob")
    soon(lambda: accepts(ring, bob))


@pytest.mark.parametrize(("text", "error"), [(None, FileNotFoundError), ("alice\n", InvalidKeyFile)])
def test_a_gateway_does_not_start_on_a_bad_file(file: Path, text: str | None, error: type[Exception]) -> None:
    if text is not None:
        file.write_text(text)
    with pytest.raises(error):
        KeyRing(file)


def test_the_two_refusals_are_told_apart() -> None:
    codes: list[type[ShoalError]] = [MissingKey, InvalidKey]
    assert [(cls.status, cls.code) for cls in codes] == [(401, "missing_key"), (401, "invalid_key")]


def test_a_role_is_kept_beside_the_hash(file: Path) -> None:
    alice, boss = keys.add(file, "alice"), keys.add(file, "boss", is_admin=True)
    ring = KeyRing(file)
    assert (ring.holder(alice), ring.holder(boss)) == (Holder("alice"), Holder("boss", is_admin=True))
    assert file.read_text().splitlines()[1].endswith(" admin")
    keys.remove(file, "alice")
    assert KeyRing(file).holder(boss).is_admin


@pytest.mark.parametrize("role", ["root", "Admin", "admin admin", "adminx"])
def test_an_unknown_role_is_a_bad_line(role: str) -> None:
    with pytest.raises(InvalidKeyFile):
        keys.parse(f"alice sha256:{HASH} {role}")
