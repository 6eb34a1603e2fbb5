"""The mount: everything a program may do to a read-only directory, under a watchdog."""
import errno
import hashlib
import mmap
import os
import subprocess
import threading

import pytest

import pg
import vault

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def restored(base, shared):
    """What the mount must show, by another way: the snapshot as `restore` wrote it."""
    to = shared.restore("main@latest", os.path.join(base, "oracle"), "--keep-archiving")
    return to


@pytest.fixture(scope="module")
def mnt(shared):
    with shared.mounted(seconds=240) as where:
        yield where


@pytest.fixture(scope="module")
def latest(mnt):
    return mnt + "/main/snapshots/latest"


# What restore adds or settles in the directory it writes.
RESTORE_WRITES = ("postgresql.auto.conf",)


def test_find_sees_the_tree(latest, restored):
    vault.assert_same(vault.tree(restored, RESTORE_WRITES, owners=pg.ROOT),
                      vault.tree(latest + "/", RESTORE_WRITES, owners=pg.ROOT))
    out = subprocess.run(["find", latest + "/", "-printf", "%i %y\n"], check=True, timeout=60,
                         stdout=subprocess.PIPE, text=True).stdout.split("\n")[:-1]
    inodes = [line.split()[0] for line in out]
    assert len(set(inodes)) == len(inodes), "inode numbers are not unique"


def test_inode_numbers_are_stable(shared, latest):
    names = ("PG_VERSION", "base", "global/pg_control")
    with shared.mounted() as other:
        for n in names:
            assert os.stat(latest + "/" + n).st_ino == \
                os.stat(other + "/main/snapshots/latest/" + n).st_ino


def test_cp_and_rsync(tmp, latest):
    subprocess.run(["cp", "-a", latest + "/", tmp + "/cp"], check=True, timeout=60)
    subprocess.run(["rsync", "-aHAX", latest + "/", tmp + "/rsync/"], check=True, timeout=60)
    there = vault.tree(latest + "/")
    vault.assert_same(there, vault.tree(tmp + "/cp"), "cp -a and the mount")
    vault.assert_same(there, vault.tree(tmp + "/rsync"), "rsync and the mount")
    again = subprocess.run(["rsync", "-aHAXin", "--checksum", latest + "/", tmp + "/rsync/"],
                           check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    assert again.stdout.strip() == ""


def test_pg_verifybackup_and_a_started_copy(tmp, latest, cluster):
    pg.run("pg_verifybackup", latest, user=False)
    copy = tmp + "/copy"
    subprocess.run(["cp", "-a", latest + "/", copy], check=True, timeout=60)
    with pg.start_copy(copy, tmp, "run") as s:
        query = "select count(*), sum(aid) from pgbench_accounts"
        assert s.sql(query) == cluster.sql(query)


def largest(top):
    return max((os.path.join(d, n) for d, _, names in os.walk(top) for n in names),
               key=os.path.getsize)


def test_mmap_and_random_reads(latest, restored):
    path = largest(restored + "/base")
    name = os.path.relpath(path, restored)
    with open(path, "rb") as f:
        want = f.read()
    with open(latest + "/" + name, "rb") as f:
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
            assert hashlib.sha256(m).digest() == hashlib.sha256(want).digest()
            for off in range(0, len(want) - 9000, 777777):
                assert m[off:off + 9000] == want[off:off + 9000]
        for off in (0, 1, 4095, 8191, 65535, 65536, len(want) - 1, len(want), len(want) + 10):
            assert os.pread(f.fileno(), 8192, off) == want[off:off + 8192]


def test_parallel_readers(shared, restored):
    """Eight readers of different files and places at once, from a cold mount."""
    files = sorted(vault.tree(restored, RESTORE_WRITES, owners=False, times=False).items())
    files = [(n, v[4][1]) for n, v in files if isinstance(v[4], tuple)]
    wrong = []

    with shared.mounted() as where:
        top = where + "/main/snapshots/latest/"

        def read(i):
            try:
                mine = files[i % 4:] + files[:i % 4]
                for n, sum_ in (mine if i % 2 else reversed(mine)):
                    if vault.file_sum(top + n) != sum_:
                        wrong.append(n)
            except OSError as e:
                wrong.append(e)

        threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(80 * vault.SLOW)
        assert not any(t.is_alive() for t in threads)
        assert not wrong, wrong[:5]


def test_nothing_can_be_written(latest, mnt):
    with open("/proc/self/mounts") as f:
        options = [line.split()[3] for line in f if line.split()[1] == mnt]
    assert options and "ro" in options[0].split(",")
    attempts = (
        lambda: open(latest + "/PG_VERSION", "r+b"), lambda: open(latest + "/new", "w"),
        lambda: os.mkdir(latest + "/new"), lambda: os.unlink(latest + "/PG_VERSION"),
        lambda: os.rename(latest + "/PG_VERSION", latest + "/x"),
        lambda: os.chmod(latest + "/PG_VERSION", 0o777), lambda: os.utime(latest + "/PG_VERSION"),
        lambda: os.symlink("a", mnt + "/main/b"), lambda: os.truncate(latest + "/PG_VERSION", 0))
    for attempt in attempts:
        with pytest.raises(OSError) as e:
            attempt()
        assert e.value.errno in (errno.EROFS, errno.EACCES, errno.EPERM)


def test_names_that_are_not_there(mnt, latest):
    for path in ("/other", "/main/none", "/main/snapshots/2001-01-01T00:00:00Z",
                 "/main/snapshots/latest/none", "/main/snapshots/latest/PG_VERSION/x",
                 "/" + "n" * 255, "/main/snapshots/latest/base/" + "x" * 200):
        with pytest.raises(OSError) as e:
            os.stat(mnt + path)
        assert e.value.errno in (errno.ENOENT, errno.ENOTDIR)
    with pytest.raises(OSError):
        os.stat(mnt + "/" + "n" * 300)
    assert os.path.exists(latest + "/PG_VERSION")


def test_statfs(mnt):
    st = os.statvfs(mnt)
    assert st.f_blocks > 0 and st.f_bsize >= 4096 and st.f_namemax >= 255


def test_a_new_snapshot_and_a_new_source_appear(tmp, cluster):
    p = vault.Pastfs(tmp).init()
    p.run("source", "add", "main", "--pg", cluster.conninfo())
    p.backup("main")
    with p.mounted() as where:
        top = where + "/main/snapshots/"
        first = sorted(os.listdir(top))[0]
        before = os.stat(top + "latest").st_ino
        kept = open(top + first + "/PG_VERSION")
        assert sorted(os.listdir(top)) == sorted([first, "latest"])
        cluster.sql("create table if not exists moved (id int); insert into moved values (1)")
        p.backup("main")
        assert pg.wait_for(lambda: len(os.listdir(top)) == 3, 15), os.listdir(top)
        second = (set(os.listdir(top)) - {first, "latest"}).pop()
        assert os.path.exists(top + second + "/PG_VERSION")
        assert pg.wait_for(lambda: os.stat(top + "latest").st_ino != before, 15)
        with open(top + "latest/backup_label") as a, open(top + second + "/backup_label") as b:
            assert a.read() == b.read()
        assert kept.read() == "15\n"
        p.run("source", "add", "another", "--pg", cluster.conninfo())
        assert pg.wait_for(lambda: "another" in os.listdir(where), 15)
        kept.close()


def test_unmount_while_busy(tmp, shared):
    with shared.mounted() as where:
        f = open(where + "/main/snapshots/latest/PG_VERSION")
        r = shared.run("umount", where, status=None)
        if r.status == vault.DONE:
            # Detached: who has a file open may go on, nobody else gets in.
            assert f.read() == "15\n"
        else:
            assert r.status == vault.BUSY and vault.is_mount(where), str(r)
            assert f.read() == "15\n"
        f.close()
        if vault.is_mount(where):
            shared.run("umount", where)
        assert vault.wait_gone(where)


def test_umount_of_what_is_no_mount(tmp, shared):
    r = shared.run("umount", tmp, status=vault.NOTFOUND)
    assert tmp in r.err


def test_mount_where_there_is_no_directory(tmp, shared):
    r = shared.run("mount", tmp + "/none", status=vault.NOTFOUND)
    assert tmp + "/none" in r.err


def test_killing_the_server_of_a_mount_is_survived(tmp, shared):
    with shared.mounted() as where:
        assert os.listdir(where)
        for pid in vault.serving(where):
            os.kill(pid, 9)
        assert pg.wait_for(lambda: not vault.serving(where))
        with pytest.raises(OSError):
            os.listdir(where)
        shared.run("umount", where)
        shared.run("mount", where)
        assert os.listdir(where) == ["main"]


def test_sigterm_unmounts(tmp, shared):
    with shared.mounted() as where:
        for pid in vault.serving(where):
            os.kill(pid, 15)
        assert vault.wait_gone(where)


@pytest.mark.root
def test_owner_maps_every_file(shared):
    with shared.mounted("--owner", "nobody") as where:
        for name in ("", "/PG_VERSION", "/base", "/global/pg_control"):
            assert os.stat(where + "/main/snapshots/latest" + name).st_uid == 65534


@pytest.mark.root
def test_as_root_the_kernel_checks_permissions(latest):
    """The server's user reads its files, another user does not."""
    def read_as(uid, gid):
        return subprocess.run(["cat", latest + "/PG_VERSION"], user=uid, group=gid,
                              extra_groups=[], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert read_as(pg.UID, pg.GID).stdout == b"15\n"
    denied = read_as(65534, 65534)
    assert denied.returncode != 0 and b"ermission denied" in denied.stderr


def test_sequential_read_of_the_whole_mount_stays_in_bounded_memory(shared):
    with shared.mounted() as where:
        for d, _, names in os.walk(where + "/main/snapshots/latest/"):
            for n in names:
                if not os.path.islink(os.path.join(d, n)):
                    vault.file_sum(os.path.join(d, n))
        if vault.SLOW > 1:
            return
        for pid in vault.serving(where):
            with open("/proc/%d/status" % pid) as f:
                peak = [int(line.split()[1]) for line in f if line.startswith("VmHWM")]
            assert peak and peak[0] < 256 << 10, "%d KiB" % peak[0]


def test_many_mounts_at_once(shared):
    with shared.mounted() as a, shared.mounted() as b:
        assert os.listdir(a) == os.listdir(b)
        assert vault.file_sum(a + "/main/snapshots/latest/global/pg_control") == \
            vault.file_sum(b + "/main/snapshots/latest/global/pg_control")
