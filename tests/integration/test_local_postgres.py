"""The local PostgreSQL: real servers from the machine's programs and from the wheel's."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from shared.db import local_server
from shared.db.local import (
    LocalPostgres,
    ensure_local_postgres,
    reset_local_postgres,
    stop_local_postgres,
)
from shared.db.local_binaries import (
    MINIMUM_MAJOR,
    Account,
    PgBinaries,
    find_binaries,
    readable_copy,
    server_account,
    wheel_binaries,
)
from shared.db.migrate import load_migrations, migrate
from shared.domain.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "tests" / "support" / "launch.py"
AS_ROOT = os.geteuid() == 0
BUILDS = ("machine", "wheel")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what steers the launcher."""
    steering = ("MERIDIAN_", "KUBERNETES_", "DATABASE_URL", "PG", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return {**kept, **more}


def machine_programs() -> PgBinaries | None:
    """The server programs outside of the wheel."""
    try:
        found = find_binaries(environment(), server_account())
    except ConfigError:
        return None
    return None if found.bundled else found


def programs_of(build: str) -> PgBinaries | None:
    """The programs of a build."""
    return wheel_binaries() if build == "wheel" else machine_programs()


def environment_of(build: str) -> dict[str, str]:
    """An environment in which the launcher takes this build."""
    binaries = programs_of(build)
    if binaries is None:
        pytest.skip(f"no PostgreSQL of the {build}")
    return environment(MERIDIAN_PG_BIN=str(binaries.bin_dir))


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory; what was started in it is removed at the end."""
    path = tmp_path / "state"
    yield path
    reset_local_postgres(path)


@pytest.fixture(scope="module")
def kept_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory whose server tests may find running, stopped or crashed."""
    path = tmp_path_factory.mktemp("kept") / "state"
    yield path
    reset_local_postgres(path)


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A folder that any user may pass through, as a temporary folder of pytest is not."""
    path = Path(tempfile.mkdtemp(prefix="meridian-test-local-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    for data_dir in path.glob("**/data-*[0-9]"):
        local_server.stop(data_dir, "immediate")
    shutil.rmtree(path)


def fetch(dsn: str, query: str) -> Any:
    """One value over a connection of its own."""

    async def ask() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(ask())


async def hears(dsn: str) -> bool:
    """Whether a notification sent on one connection arrives on another."""
    heard = asyncio.Event()
    listener, sender = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await listener.add_listener("changes", lambda *_: heard.set())
    await sender.execute("NOTIFY changes")
    async with asyncio.timeout(5):
        await heard.wait()
    await listener.close()
    await sender.close()
    return heard.is_set()


def socket_of(local: LocalPostgres) -> Path:
    """The socket that the address names."""
    query = parse_qs(urlsplit(local.dsn).query)
    return Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}"


def launch(state_dir: Path, *ids: int, **more: str) -> dict[str, Any]:
    """The answer of a process of its own."""
    command = [sys.executable, "-P", str(LAUNCH), str(state_dir), *map(str, ids)]
    done = subprocess.run(
        command,
        env=environment(PYTHONPATH=str(ROOT), **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_build_starts_once_and_has_data_of_its_own(state_dir: Path) -> None:
    """Servers of both builds take migrations and notifications and are joined by later calls;
    programs of another major version leave the old data alone and say where it stays."""
    builds = {build: environment_of(build) for build in BUILDS if programs_of(build)}
    assert builds
    seen: list[LocalPostgres] = []
    for environ in builds.values():
        local = ensure_local_postgres(environ, state_dir)
        assert local.started
        assert local.major >= MINIMUM_MAJOR
        assert str(fetch(local.dsn, "SHOW server_version_num")).startswith(str(local.major))
        assert len(asyncio.run(migrate(local.dsn))) == len(load_migrations())
        assert asyncio.run(hears(local.dsn))
        joined = ensure_local_postgres(environ, state_dir)
        assert (joined.started, joined.dsn) == (False, local.dsn)
        for other in seen:
            assert local.data_dir != other.data_dir
            assert local.notice is not None
            assert str(other.data_dir) in local.notice
        seen.append(local)
    assert seen[0].notice is None
    assert stop_local_postgres(state_dir)
    assert [local_server.server_pid(local.data_dir) for local in seen] == [None] * len(seen)


def test_server_is_closed_to_everybody_else(kept_dir: Path) -> None:
    """No TCP, a private socket folder, a password, private files, no other group or owner."""
    local = ensure_local_postgres(environment(), kept_dir)
    assert fetch(local.dsn, "SHOW listen_addresses") == ""
    assert fetch(local.dsn, "SHOW password_encryption") == "scram-sha-256"
    run_dir = socket_of(local).parent
    assert stat.S_IMODE(run_dir.lstat().st_mode) == 0o700
    assert stat.S_IMODE(local.data_dir.lstat().st_mode) == 0o700
    assert stat.S_IMODE(kept_dir.lstat().st_mode) == 0o700
    record = kept_dir / "local-postgres.json"
    assert stat.S_IMODE(record.lstat().st_mode) == 0o600
    assert record.lstat().st_uid == os.geteuid()
    account = server_account()
    owner = account.uid if account else os.geteuid()
    assert local.data_dir.lstat().st_uid == run_dir.lstat().st_uid == owner
    password = urlsplit(local.dsn).password
    assert password is not None
    assert len(password) >= 32
    with pytest.raises(asyncpg.InvalidPasswordError):
        fetch(local.dsn.replace(password, "guess"), "SELECT 1")
    hba = (local.data_dir / "pg_hba.conf").read_text()
    methods = {line.split()[-1] for line in hba.splitlines() if line and line[0] != "#"}
    assert methods == {"scram-sha-256"}


def test_password_is_nowhere_but_in_the_address_and_its_file(kept_dir: Path) -> None:
    """Neither the value's repr, nor a process's arguments, nor any other file shows it."""
    local = ensure_local_postgres(environment(), kept_dir)
    password = urlsplit(local.dsn).password
    assert password is not None
    assert password not in repr(local)
    assert password not in local.masked_dsn
    assert local.masked_dsn.startswith("postgresql://meridian:***@")
    pid = local_server.server_pid(local.data_dir)
    assert pid is not None
    if Path("/proc").is_dir():
        assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert password.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    holders = [
        path
        for folder in (kept_dir, local.data_dir.parent)
        for path in folder.rglob("*")
        if path.is_file() and password.encode() in path.read_bytes()
    ]
    assert set(holders) == {kept_dir / "local-postgres.json"}


def test_many_processes_at_once_start_one_server_and_reset_deletes_it(state_dir: Path) -> None:
    """Of four processes that begin together one starts it; all get the same address. A reset
    leaves neither data nor socket nor password."""
    command = [sys.executable, "-P", str(LAUNCH), str(state_dir)]
    environ = environment(PYTHONPATH=str(ROOT))
    processes = [
        subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert sorted(answer["started"] for answer in answers) == [False, False, False, True]
    assert len({answer["dsn"] for answer in answers}) == 1

    local = ensure_local_postgres(environment(), state_dir)
    assert reset_local_postgres(state_dir)
    assert not local.data_dir.parent.exists()
    assert not socket_of(local).parent.exists()
    assert not (state_dir / "local-postgres.json").exists()
    assert not reset_local_postgres(state_dir)


def test_data_survives_stop_and_crash(kept_dir: Path) -> None:
    """What was committed is there after a stop and after a killed server."""
    local = ensure_local_postgres(environment(), kept_dir)
    fetch(local.dsn, "CREATE TABLE kept (id int)")
    assert stop_local_postgres(kept_dir)
    assert not stop_local_postgres(kept_dir)

    again = ensure_local_postgres(environment(), kept_dir)
    assert (again.started, again.dsn) == (True, local.dsn)
    fetch(again.dsn, "INSERT INTO kept VALUES (1)")
    pid = local_server.server_pid(local.data_dir)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while local_server.answers(socket_of(local)):
        time.sleep(0.01)

    after = ensure_local_postgres(environment(), kept_dir)
    assert after.started
    assert fetch(after.dsn, "SELECT count(*) FROM kept") == 1


def test_number_of_a_dead_server_that_another_program_has(kept_dir: Path) -> None:
    """A `postmaster.pid` left by a crash of the machine does not keep the server from starting."""
    local = ensure_local_postgres(environment(), kept_dir)
    pid_file = local.data_dir / "postmaster.pid"
    left_over = pid_file.read_text().split("\n")
    stop_local_postgres(kept_dir)
    account = server_account()
    # PostgreSQL takes any live process of its own user for a rival.
    other = subprocess.Popen(
        ["sleep", "600"],
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    try:
        pid_file.write_text("\n".join([str(other.pid), *left_over[1:]]))
        if account is not None:
            os.chown(pid_file, account.uid, account.gid)
        assert not stop_local_postgres(kept_dir)
        assert ensure_local_postgres(environment(), kept_dir).started
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_server_whose_socket_was_swept_away_is_restarted(kept_dir: Path) -> None:
    """A cleaner of temporary folders cannot leave a server behind that nobody reaches."""
    local = ensure_local_postgres(environment(), kept_dir)
    before = local_server.server_pid(local.data_dir)
    socket_of(local).unlink()
    again = ensure_local_postgres(environment(), kept_dir)
    assert again.started
    assert local_server.server_pid(local.data_dir) != before
    assert fetch(again.dsn, "SELECT 1") == 1


def test_half_made_data_is_made_anew(kept_dir: Path) -> None:
    """A crash while the data folder was being made leaves no trace."""
    local = ensure_local_postgres(environment(), kept_dir)
    stop_local_postgres(kept_dir)
    half = local.data_dir.with_name(local.data_dir.name + ".new")
    local.data_dir.rename(half)
    (half.with_name(local.data_dir.name + ".password")).write_text("left over")
    assert ensure_local_postgres(environment(), kept_dir).started
    assert not half.exists()
    assert not list(local.data_dir.parent.glob("*.password"))


def test_long_state_directory_has_its_socket_elsewhere(tmp_path: Path) -> None:
    """A path too long for a socket moves the socket, not the data, to a checked private folder."""
    state_dir = tmp_path / ("long" * 30)
    if AS_ROOT:
        pytest.skip("as root the folder is short whatever the state directory")
    local = ensure_local_postgres(environment(), state_dir)
    try:
        assert local.data_dir.is_relative_to(state_dir)
        assert not socket_of(local).is_relative_to(state_dir)
        assert stat.S_IMODE(socket_of(local).parent.lstat().st_mode) == 0o700
    finally:
        reset_local_postgres(state_dir)
    assert not socket_of(local).parent.exists()


@pytest.mark.parametrize("taken_by", ["link", "open folder", "file"])
def test_folder_that_somebody_else_took_is_refused(tmp_path: Path, taken_by: str) -> None:
    """A predictable name is never used when a link, an open folder or a file has it."""
    path = tmp_path / "run"
    if taken_by == "link":
        (tmp_path / "target").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "target")
    elif taken_by == "open folder":
        path.mkdir()
        path.chmod(0o770)
    else:
        path.touch()
    with pytest.raises(ConfigError, match="not a folder of mode 0700"):
        local_server.own_private_dir(path, None)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"MERIDIAN_ENV": "production"}, "MERIDIAN_ENV=production"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "KUBERNETES_SERVICE_HOST"),
        ({"MERIDIAN_ENV": "Production", "KUBERNETES_SERVICE_HOST": ""}, "MERIDIAN_ENV"),
    ],
)
def test_refused_where_a_database_must_be_given(
    state_dir: Path, environ: dict[str, str], named: str
) -> None:
    """Production and Kubernetes get a message that names DATABASE_URL, and nothing is made."""
    with pytest.raises(ConfigError, match=named) as caught:
        ensure_local_postgres(environment(**environ), state_dir)
    assert "set DATABASE_URL" in str(caught.value)
    assert not state_dir.exists()


def test_tests_in_a_pod_may_have_one(kept_dir: Path) -> None:
    """`MERIDIAN_ENV=test` lifts the refusal for runners that are pods themselves."""
    environ = environment(KUBERNETES_SERVICE_HOST="10.0.0.1", MERIDIAN_ENV="test")
    assert ensure_local_postgres(environ, kept_dir).data_dir.is_dir()


def test_state_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Whoever can write there could put a record of their own in place of ours."""
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="writable by nobody else"):
        ensure_local_postgres(environment(), tmp_path)


def test_lost_password_is_said_and_data_kept(state_dir: Path) -> None:
    """Without its record an ordinary user's data is not overwritten."""
    if AS_ROOT:
        pytest.skip("as root a new record gets a new folder")
    local = ensure_local_postgres(environment(), state_dir)
    record = state_dir / "local-postgres.json"
    text = record.read_text()
    record.unlink()
    with pytest.raises(ConfigError, match="password is lost"):
        ensure_local_postgres(environment(), state_dir)
    assert local.data_dir.exists()
    local_server.write_private(record, text)


@pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")
@pytest.mark.parametrize(("build", "user"), [("machine", "postgres"), ("wheel", "nobody")])
def test_ordinary_user_runs_it_in_place(build: str, user: str, public_dir: Path) -> None:
    """Not root: the server is the user's own, and its data lies in the state directory."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        pytest.skip(f"no user {user}")
    state_dir = public_dir / "state"
    local_server.make_private_dir(state_dir, Account(user, entry.pw_uid, entry.pw_gid))
    programs = environment_of(build)["MERIDIAN_PG_BIN"]
    if find_as(user, programs) is None:
        pytest.skip(f"{user} cannot read the programs of the {build}")
    ids = (entry.pw_uid, entry.pw_gid)
    first = launch(state_dir, *ids, MERIDIAN_PG_BIN=programs)
    assert first.get("started"), first
    assert Path(first["data_dir"]).is_relative_to(state_dir)
    assert Path(first["data_dir"]).stat().st_uid == entry.pw_uid
    assert fetch(first["dsn"], "SELECT 1") == 1
    second = launch(state_dir, *ids, MERIDIAN_PG_BIN=programs)
    assert (second["started"], second["dsn"]) == (False, first["dsn"])


def find_as(user: str, programs: str) -> PgBinaries | None:
    """The programs if this user can run them."""
    entry = pwd.getpwnam(user)
    try:
        account = Account(user, entry.pw_uid, entry.pw_gid)
        found = find_binaries({"MERIDIAN_PG_BIN": programs}, account)
    except ConfigError:
        return None
    return found if readable_copy(found, None, Path("/nonexistent")) == found else None


@pytest.mark.skipif(not AS_ROOT, reason="only root drops to another user")
def test_root_without_a_user_for_it_takes_the_next_or_says_what_to_do(public_dir: Path) -> None:
    """Where there is no `postgres` the shared account serves; with none at all, a message."""
    account = server_account(("no-such-user", "root", "nobody"))
    assert account is not None
    assert account.name == "nobody"
    base = public_dir / "postgres"
    base.mkdir(mode=0o711)
    local_server.make_private_dir(base / "run", account)
    cluster = local_server.Cluster(
        binaries=find_binaries(environment(), account),
        account=account,
        data_dir=base / "data-1",
        run_dir=base / "run",
        port=54321,
    )
    local_server.create(cluster, "a-password", "meridian")
    local_server.start(cluster)
    assert local_server.answers(cluster.socket)
    assert cluster.data_dir.stat().st_uid == account.uid
    assert local_server.stop(cluster.data_dir)
    with pytest.raises(ConfigError, match="useradd --system postgres"):
        server_account(("no-such-user",))


@pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")
def test_user_without_a_name_is_told_what_to_set(public_dir: Path) -> None:
    """PostgreSQL cannot run for a bare number, so the message names DATABASE_URL."""
    state_dir = public_dir / "state"
    local_server.make_private_dir(state_dir, Account("", 54321, 54321))
    answer = launch(state_dir, 54321)
    assert "user id 54321 has no name" in answer["error"]
    assert "DATABASE_URL" in answer["error"]


@pytest.mark.skipif(not AS_ROOT, reason="only root drops to another user")
def test_root_copies_programs_that_the_other_user_cannot_read(
    tmp_path: Path, state_dir: Path
) -> None:
    """Below a closed folder the wheel's programs are copied, and nothing is opened or changed."""
    wheel = wheel_binaries()
    if wheel is None:
        pytest.skip("no PostgreSQL of the wheel")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = wheel.bin_dir.parents[1]
    for folder in (package, package.with_name(package.name + ".libs")):
        if folder.is_dir():
            (closed / folder.name).symlink_to(folder)
    programs = closed / package.name / wheel.bin_dir.parent.name / "bin"
    modes = {path: path.stat() for path in (closed, tmp_path, *closed.iterdir(), wheel.bin_dir)}
    users = Path("/etc/passwd").read_bytes()

    environ = environment(MERIDIAN_PG_BIN=str(programs))
    local = ensure_local_postgres(environ, state_dir)
    assert not local.bin_dir.is_relative_to(closed)
    assert fetch(local.dsn, "SELECT 1") == 1
    assert not (local.bin_dir.parent / "include").exists()
    for path, before in modes.items():
        after = path.stat()
        assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert Path("/etc/passwd").read_bytes() == users
    assert local.bin_dir.stat().st_uid == 0
    again = ensure_local_postgres(environ, state_dir)
    assert (again.started, again.bin_dir) == (False, local.bin_dir)


def fake_programs(folder: Path, major: int, *, missing: str | None = None) -> Path:
    """A folder of programs that only tell their version."""
    folder.mkdir(parents=True)
    for name in {"initdb", "pg_ctl", "postgres"} - {missing}:
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} (PostgreSQL) {major}.1 (Debian)"\n')
        path.chmod(0o755)
    return folder


def test_newest_folder_of_the_machine_is_taken(tmp_path: Path) -> None:
    """Among versioned folders the highest complete one of at least 15 wins, by number."""
    for major in (9, 14, 15, 16):
        fake_programs(tmp_path / str(major) / "bin", major)
    fake_programs(tmp_path / "17" / "bin", 17, missing="initdb")
    found = find_binaries({"PATH": ""}, None, folders=(f"{tmp_path}/*/bin",))
    assert (found.major, found.bin_dir) == (16, tmp_path / "16" / "bin")


def test_pg_config_comes_first_and_path_after_the_folders(tmp_path: Path) -> None:
    """The order is pg_config, the usual folders, PATH."""
    on_path = fake_programs(tmp_path / "path" / "bin", 15)
    told = fake_programs(tmp_path / "told" / "bin", 16)
    usual = fake_programs(tmp_path / "usual" / "18" / "bin", 18)
    search = {"PATH": f"{on_path}:{os.defpath}"}
    nowhere = (f"{tmp_path}/none/*/bin",)
    (on_path / "pg_config").write_text(f"#!/bin/sh\necho {told}\n")
    (on_path / "pg_config").chmod(0o755)
    folders = (f"{usual.parents[1]}/*/bin",)
    assert find_binaries(search, None, folders=folders).bin_dir == told
    shutil.rmtree(told)
    assert find_binaries(search, None, folders=folders).bin_dir == usual
    assert find_binaries(search, None, folders=nowhere).bin_dir == on_path


def test_wheel_is_the_last_resort(tmp_path: Path) -> None:
    """Too old or broken programs are passed over for the wheel's."""
    fake_programs(tmp_path / "14" / "bin", 14)
    if wheel_binaries() is None:
        pytest.skip("no PostgreSQL of the wheel")
    found = find_binaries({"PATH": ""}, None, folders=(f"{tmp_path}/*/bin",))
    assert found.bundled
    assert found == wheel_binaries()


def test_named_folder_decides_alone(tmp_path: Path) -> None:
    """`MERIDIAN_PG_BIN` is not silently replaced by something that works."""
    good = fake_programs(tmp_path / "good", 15)
    old = fake_programs(tmp_path / "old", 14)
    assert find_binaries({"MERIDIAN_PG_BIN": str(good)}, None).bin_dir == good
    for wrong in (old, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="MERIDIAN_PG_BIN"):
            find_binaries({"MERIDIAN_PG_BIN": str(wrong)}, None)
