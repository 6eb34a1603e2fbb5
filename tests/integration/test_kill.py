"""
kill -9 and Ctrl-C at random moments of backup, restore and index rebuild: what was there stays,
what was begun can be begun again.

PASTFS_KILLS sets how often each is killed (6); PASTFS_SEED the moments, which a failure tells.
"""
import os
import random
import signal
import time

import pytest

import pg
import vault

KILLS = int(os.environ.get("PASTFS_KILLS", "6"))
SEED = os.environ.get("PASTFS_SEED") or str(int(time.time()))


@pytest.fixture(scope="module")
def moments():
    print("PASTFS_SEED=" + SEED)
    return random.Random(SEED)


def kill_at(p, seconds, *args, sig=signal.SIGKILL):
    """Start pastfs, send it `sig` after `seconds`; the status it ended with."""
    with open(os.path.join(p.base, "killed.log"), "wb") as log:
        child = p.popen(*args, stdout=log, stderr=log)
        try:
            return child.wait(seconds)
        except Exception:
            child.send_signal(sig)
            return child.wait(60)


def duration(p, *args):
    began = time.monotonic()
    p.run(*args)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def busy(base, clusters):
    c = clusters("busy")
    c.pgbench("-i", "-q", "-s", "3")
    path = os.path.join(base, "kill")
    os.mkdir(path, 0o755)
    p = vault.Pastfs(path).init()
    p.run("source", "add", "main", "--pg", c.conninfo())
    p.backup("main")
    p.first = p.snapshots("main")[0]["name"]
    p.oracle = vault.tree(p.restore("main@" + p.first, path + "/oracle", "--keep-archiving"))
    return c, p


def is_intact(p, tmp, name="r"):
    """Old snapshots are equal to what they were."""
    to = p.restore("main@" + p.first, os.path.join(tmp, name), "--keep-archiving")
    vault.assert_same(p.oracle, vault.tree(to), "the first snapshot")


def test_killed_backups(tmp, busy, moments):
    c, p = busy
    c.pgbench("-n", "-t", "500")
    began = len(p.snapshots("main"))
    took = duration(p, "backup", "main", "--full-read")
    assert len(p.snapshots("main")) == began + 1
    killed = 0
    for i in range(KILLS):
        c.pgbench("-n", "-t", "300")
        status = kill_at(p, moments.uniform(0.0, took * 1.1), "backup", "main", "--full-read")
        killed += status != 0
        # Structure, every time; a snapshot is there or not, and what is there is whole.
        p.run("check")
        assert pg.wait_for(lambda: c.sql("select count(*) from pg_replication_slots") == "0")
    p.run("check", "--read-data")
    is_intact(p, tmp)
    # A rerun works, also at once and although a lock was left by the dead.
    n = len(p.snapshots("main"))
    p.backup("main")
    assert len(p.snapshots("main")) == n + 1
    with pg.start_copy(p.restore("main@latest", tmp + "/last"), tmp, "run") as s:
        s.pgbench_is_consistent()
        assert s.sql("select count(*) from pgbench_history") == \
            c.sql("select count(*) from pgbench_history")
    assert killed, "no backup was killed in time"


def test_killed_first_backups(tmp, busy, moments):
    """With no snapshot yet, and every pack to be written."""
    c, _ = busy
    p = vault.Pastfs(tmp).init()
    p.run("source", "add", "main", "--pg", c.conninfo())
    for i in range(max(KILLS // 3, 1)):
        kill_at(p, moments.uniform(0.05, 1.2 * vault.SLOW), "backup", "main")
        p.run("check", "--read-data")
    n = len(p.snapshots("main"))
    p.backup("main")
    assert len(p.snapshots("main")) == n + 1
    p.run("check", "--read-data")
    with pg.start_copy(p.restore("main@latest", tmp + "/r"), tmp, "run") as s:
        s.pgbench_is_consistent()


def test_killed_init(tmp, moments):
    for i in range(KILLS):
        d = "%s/i%d" % (tmp, i)
        os.mkdir(d)
        p = vault.Pastfs(d)
        kill_at(p, moments.uniform(0.0, 0.5 * vault.SLOW), "init", p.repo)
        # It is a repository or it can be made one.
        if p.run("check", status=None).status != vault.DONE:
            r = p.run("init", p.repo, status=None)
            if r.status != vault.DONE:
                assert p.repo in r.err and r.status != vault.DAMAGED, str(r)
                continue
        p.run("check")


def finish_restore(p, to):
    """The same command again completes the directory, or refuses it because it is complete."""
    r = p.run("restore", "main@" + p.first, to, "--keep-archiving", status=None)
    if r.status != vault.DONE:
        # Ended behind its last step: it is a directory of the user's now.
        assert "--force" in r.err, str(r)
    vault.assert_same(p.oracle, vault.tree(to), to)


def test_killed_restores(tmp, busy, moments):
    c, p = busy
    took = duration(p, "restore", "main@" + p.first, tmp + "/whole", "--keep-archiving")
    for i in range(KILLS):
        to = "%s/r%d" % (tmp, i)
        status = kill_at(p, moments.uniform(0.0, took * 1.05), "restore", "main@" + p.first, to,
                         "--keep-archiving")
        if status != 0 and os.path.exists(to + "/global/pg_control"):
            # Killed behind the last file: everything but the marker is there.
            left = vault.tree(to, times=False)
            assert set(vault.tree(tmp + "/whole", times=False)) <= set(left)
        finish_restore(p, to)


def test_killed_index_rebuilds(tmp, busy, moments):
    _, p = busy
    took = duration(p, "index", "rebuild")
    for _ in range(KILLS):
        kill_at(p, moments.uniform(0.0, took * 1.05), "index", "rebuild")
        p.run("check")
    is_intact(p, tmp)
    p.run("index", "rebuild")
    p.run("check", "--read-data")


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp, busy, moments, sig):
    """Ctrl-C: it says so, leaves nothing half-done and ends soon."""
    c, p = busy
    n = len(p.snapshots("main"))
    interrupted = 0
    for i in range(3):
        c.pgbench("-n", "-t", "200")
        began = time.monotonic()
        delay = moments.uniform(0.0, 0.6)
        status = kill_at(p, delay, "backup", "main", "--full-read", sig=sig)
        assert time.monotonic() - began < 20 * vault.SLOW
        if status == 0:
            n += 1
        elif status == vault.FAILED:
            interrupted += 1
            with open(os.path.join(p.base, "killed.log"), errors="replace") as f:
                assert "interrupted" in f.read()
        else:
            # So early that the handler was not there yet.
            assert status == -sig
    assert len(p.snapshots("main")) == n
    assert c.sql("select count(*) from pg_replication_slots") == "0"
    to = tmp + "/r"
    status = kill_at(p, 0.15, "restore", "main@" + p.first, to, "--keep-archiving",
                     sig=sig)
    assert status in (0, vault.FAILED, -sig)
    finish_restore(p, to)


def test_two_backups_at_once(tmp, busy):
    """While one is stopped in its midst, the second says who holds the source."""
    c, p = busy
    locks = set(vault.tree(p.repo, owners=False))
    with open(tmp + "/log", "wb") as log:
        first = p.popen("backup", "main", "--full-read", stdout=log, stderr=log)
    try:
        assert pg.wait_for(lambda: any(n.startswith("locks/") for n in
                                       set(vault.tree(p.repo, owners=False)) - locks)
                           or first.poll() is not None, pause=0.005)
        first.send_signal(signal.SIGSTOP)
        assert first.poll() is None, "the backup was over before it could be stopped"
        r = p.run("backup", "main", status=vault.BUSY)
        assert str(first.pid) in r.err, str(r)
        # Readers are not disturbed.
        assert p.snapshots("main")
        p.run("check")
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(60 * vault.SLOW) == 0
    p.backup("main")
