"""
Damage and full disks: nothing wrong is ever returned, earlier snapshots stay, and every message
says what to do.
"""
import errno
import glob
import json
import os
import random
import shutil
import struct
import subprocess

import pytest

import pg
import vault

RANDOM = random.Random(20261120)


def flip(path, off, bit=3):
    mode = os.stat(path).st_mode
    os.chmod(path, 0o600)
    with open(path, "r+b") as f:
        f.seek(off)
        byte = f.read(1)[0]
        f.seek(off)
        f.write(bytes([byte ^ 1 << bit]))
    os.chmod(path, mode)


@pytest.fixture(scope="module")
def origin(base, cluster):
    """A repository with two snapshots, one with deltas, and both as they were restored."""
    path = os.path.join(base, "origin")
    os.mkdir(path, 0o755)
    p = vault.Pastfs(path).init()
    p.run("source", "add", "main", "--pg", cluster.conninfo())
    p.backup("main")
    cluster.sql("update pgbench_accounts set abalance = abalance + 7 where aid % 3000 = 0")
    p.backup("main")
    p.names = [s["name"] for s in p.snapshots("main")]
    p.trees = {}
    for n in p.names:
        to = os.path.join(path, "oracle", n)
        os.makedirs(os.path.dirname(to), exist_ok=True)
        p.restore("main@" + n, to, "--keep-archiving")
        p.trees[n] = to
    return p


@pytest.fixture
def broken(tmp, origin):
    """A copy of that repository, to be damaged, with an index of its own."""
    p = vault.Pastfs(tmp, repo=os.path.join(tmp, "repo"))
    shutil.copytree(origin.repo, p.repo, symlinks=True)
    shutil.copy(origin.passfile, p.passfile)
    p.names, p.trees = origin.names, origin.trees
    return p


def findings(p, *args):
    """What check says, as a list; with the status it must have then."""
    r = p.run("check", "--json", *args, status=vault.DAMAGED)
    return r.json["findings"]


def unreadable(top, oracle):
    """
    Every page of every file read alone: {path: set of pages that gave EIO}.  Whatever is returned
    must be equal to the oracle.
    """
    bad = {}
    for d, _, names in os.walk(oracle):
        for n in names:
            path = os.path.join(d, n)
            name = os.path.relpath(path, oracle)
            if os.path.islink(path):
                continue
            with open(path, "rb") as f:
                want = f.read()
            try:
                fd = os.open(os.path.join(top, name), os.O_RDONLY)
            except OSError as e:
                assert e.errno == errno.EIO
                bad[name] = None
                continue
            try:
                assert os.fstat(fd).st_size == len(want)
                for off in range(0, len(want), 4096):
                    try:
                        got = os.pread(fd, 4096, off)
                        assert got == want[off:off + 4096], "%s at %d: wrong bytes" % (name, off)
                    except OSError as e:
                        assert e.errno == errno.EIO, e
                        bad.setdefault(name, set()).add(off // 4096)
            finally:
                os.close(fd)
    return bad


def covered(found, snapshot):
    """The pages that check names, by file, of one snapshot."""
    pages = {}
    for f in found:
        if f.get("what") == "file" and f.get("snapshot") == snapshot:
            first, last = f["offset"] // 4096, (f["offset"] + f["length"] - 1) // 4096
            pages.setdefault(f["path"], set()).update(range(first, last + 1))
    return pages


def data_pack(p):
    """The largest pack: content rather than metadata."""
    return max(p.packs(), key=os.path.getsize)


@pytest.mark.fuse
def test_a_flipped_bit_gives_eio_on_exactly_the_bytes_it_covers(broken):
    pack = data_pack(broken)
    flip(pack, os.path.getsize(pack) // 2)
    found = findings(broken, "--read-data")
    assert any(f.get("what") == "file" for f in found), found
    text = broken.run("check", "--read-data", status=vault.DAMAGED)
    touched = False
    with broken.mounted() as where:
        for n in broken.names:
            bad = unreadable(where + "/main/snapshots/" + n, broken.trees[n])
            named = covered(found, n)
            assert bad == named, "unreadable and named by check differ: %s, %s" % (
                {k: len(v) for k, v in bad.items()}, {k: len(v) for k, v in named.items()})
            for path in named:
                touched = True
                assert path in text.out + text.err and n in text.out + text.err
    assert touched


def test_restore_of_a_damaged_file_says_so(tmp, broken):
    pack = data_pack(broken)
    flip(pack, os.path.getsize(pack) // 2)
    found = findings(broken, "--read-data")
    name = next(f["snapshot"] for f in found if f.get("what") == "file")
    paths = {f["path"] for f in found if f.get("what") == "file" and f["snapshot"] == name}
    r = broken.run("restore", "main@" + name, tmp + "/r", status=vault.DAMAGED)
    for path in paths:
        assert path in r.err + r.out
        assert not os.path.exists(tmp + "/r/" + path), "a damaged file under its own name"
        assert os.path.exists(tmp + "/r/" + path + ".damaged")
    whole = vault.tree(broken.trees[name], ("postgresql.auto.conf",), times=False)
    got = vault.tree(tmp + "/r", ("postgresql.auto.conf",), times=False)
    for path, what in whole.items():
        if path not in paths and path in got:
            assert got[path] == what, path
    assert len(set(whole) - set(got) - paths) <= 3, sorted(set(whole) - set(got))


@pytest.mark.fuse
@pytest.mark.parametrize("how", ["truncated", "missing", "garbled"])
def test_a_lost_pack_is_told_and_the_rest_is_readable(broken, how):
    pack = data_pack(broken)
    if how == "missing":
        os.unlink(pack)
    elif how == "truncated":
        os.chmod(pack, 0o600)
        os.truncate(pack, os.path.getsize(pack) // 2)
    else:
        os.chmod(pack, 0o600)
        with open(pack, "r+b") as f:
            f.write(RANDOM.randbytes(os.path.getsize(pack)))
    # The structure alone shows a pack that is gone or short; garbling only the data.
    if how != "garbled":
        assert any(f.get("what") in ("pack", "chunk") for f in findings(broken))
    found = findings(broken, "--read-data")
    assert os.path.basename(pack)[:8] in json.dumps(found)
    readable = 0
    with broken.mounted() as where:
        for n in broken.names:
            bad = unreadable(where + "/main/snapshots/" + n, broken.trees[n])
            assert bad == covered(found, n)
            readable += sum(1 for p in vault.tree(broken.trees[n]) if p not in bad)
    assert readable > 0
    # The snapshots can still be listed.
    assert [s["name"] for s in broken.snapshots("main")] == broken.names


def test_any_flipped_bit_anywhere_is_found(broken):
    """One bit of every kind of object: whatever it hits, something tells, and nothing crashes."""
    objects = [os.path.join(d, n) for d, _, names in os.walk(broken.repo) for n in names]
    kinds = {}
    for path in sorted(objects):
        kinds.setdefault(os.path.relpath(path, broken.repo).split("/")[0], []).append(path)
    assert len(kinds) >= 5, kinds
    for kind, paths in kinds.items():
        if kind == "locks":
            continue
        path = RANDOM.choice(paths)
        off, bit = RANDOM.randrange(os.path.getsize(path)), RANDOM.randrange(8)
        flip(path, off, bit)
        shutil.rmtree(broken.env["XDG_CACHE_HOME"], ignore_errors=True)
        r = broken.run("check", "--read-data", status=None)
        assert r.status != vault.DONE and (r.err + r.out).strip(), \
            "a flipped bit in %s went unnoticed: %s" % (kind, r)
        assert r.status in (vault.DAMAGED, vault.WRONGKEY, vault.NOTFOUND, vault.FAILED), str(r)
        flip(path, off, bit)
    shutil.rmtree(broken.env["XDG_CACHE_HOME"], ignore_errors=True)
    broken.run("check", "--read-data")


# ---- the index, which is only a cache ----

def test_a_deleted_index_is_rebuilt(tmp, broken):
    broken.run("check")
    assert broken.cache_files()
    shutil.rmtree(broken.env["XDG_CACHE_HOME"])
    broken.restore("main@latest", tmp + "/r")
    broken.run("check")
    assert broken.cache_files()


def test_a_garbled_index_is_rebuilt(tmp, broken):
    broken.run("check")
    for path in broken.cache_files():
        if "lock" in os.path.basename(path) or os.path.getsize(path) < 4096:
            continue
        with open(path, "r+b") as f:
            f.write(RANDOM.randbytes(min(os.path.getsize(path), 65536)))
    to = broken.restore("main@latest", tmp + "/r", "--keep-archiving")
    vault.assert_same(vault.tree(broken.trees[broken.names[-1]]), vault.tree(to))
    broken.run("check")


def test_a_truncated_index_is_rebuilt(broken):
    broken.run("check")
    for path in broken.cache_files():
        os.truncate(path, os.path.getsize(path) // 3)
    broken.run("check")


def test_the_index_of_another_repository_is_not_believed(tmp, broken, shared):
    shared.run("check")
    broken.run("check")
    ours, theirs = broken.cache_files(), shared.cache_files()
    for path in ours:
        same = [t for t in theirs if os.path.basename(t) == os.path.basename(path)]
        if same:
            shutil.copy(same[0], path)
    broken.run("check")
    broken.restore("main@latest", tmp + "/r")


def test_index_rebuild(broken):
    broken.run("check")
    broken.run("index", "rebuild")
    broken.run("check", "--read-data")


# ---- places that are not repositories, or not ours ----

def test_no_repository_there(tmp):
    p = vault.Pastfs(tmp, repo=tmp + "/nothing")
    for verb in (["snapshots", "main"], ["check"], ["backup", "main"], ["stats"], ["mount", tmp]):
        r = p.run(*verb, status=vault.NOTFOUND)
        assert "/nothing" in r.err
    os.mkdir(tmp + "/nothing")
    r = p.run("check", status=vault.NOTFOUND)
    assert "init" in r.err, "the next step is missing: %s" % r


def test_a_directory_that_is_not_one(tmp):
    p = vault.Pastfs(tmp, repo=tmp + "/music")
    os.mkdir(p.repo)
    with open(p.repo + "/song", "w") as f:
        f.write("la la")
    p.run("check", status=vault.NOTFOUND)
    r = p.run("init", p.repo, status=None)
    assert r.status != vault.DONE and r.err.strip()
    assert sorted(os.listdir(p.repo)) == ["song"]
    with open(p.repo + "/pastfs", "w") as f:
        f.write("not a header")
    assert p.run("check", status=None).status in (vault.DAMAGED, vault.NOTFOUND)


def test_init_over_a_repository(broken):
    before = vault.tree(broken.repo)
    r = broken.run("init", broken.repo, status=None)
    assert r.status != vault.DONE and r.err.strip()
    vault.assert_same(before, vault.tree(broken.repo))


def test_a_newer_format_says_so(broken):
    path = broken.repo + "/pastfs"
    os.chmod(path, 0o600)
    with open(path, "r+b") as f:
        f.seek(8)
        f.write(struct.pack("<I", 99))
    for verb in (["check"], ["backup", "main"], ["key", "list"], ["snapshots", "main"]):
        r = broken.run(*verb, status=vault.FAILED)
        assert "99" in r.err and "format" in r.err and "upgrade" in r.err, str(r)


def test_a_wrong_passphrase(tmp, broken):
    wrong = tmp + "/wrong"
    with open(wrong, "w") as f:
        f.write("not this one\n")
    os.chmod(wrong, 0o600)
    r = broken.run("check", "--passphrase-file", wrong, status=vault.WRONGKEY)
    assert "1 " in r.err and "slot" in r.err, str(r)
    r = broken.run("mount", tmp, env={"PASTFS_PASSPHRASE_FILE": wrong}, status=vault.WRONGKEY)
    assert not vault.is_mount(tmp)


# ---- PostgreSQL that is not there, or another ----

def test_server_down(tmp, clusters, fresh):
    c = clusters("down")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    c.stop()
    r = fresh.run("backup", "main", status=vault.FAILED)
    assert str(c.port) in r.err or c.run_dir in r.err, str(r)
    c.start()
    fresh.backup("main")


def test_not_allowed(clusters, fresh):
    c = clusters("closed")
    c.sql("create role weak login")
    fresh.run("source", "add", "main", "--pg", c.conninfo(user="weak"), status=None)
    r = fresh.run("backup", "main", status=None)
    assert r.status != vault.DONE and r.err.strip()


def test_another_cluster_under_the_same_address(clusters, fresh):
    a = clusters("first")
    b = clusters("second")
    fresh.run("source", "add", "main", "--pg", a.conninfo())
    fresh.backup("main")
    a.stop()
    b.stop()
    b.run_dir, b.port = a.run_dir, a.port
    b.start()
    r = fresh.run("backup", "main", status=vault.USAGE)
    assert "cluster" in r.err, str(r)
    b.stop()
    a.start()
    fresh.backup("main")
    assert len(fresh.snapshots("main")) == 2


@pytest.mark.root
def test_a_data_directory_that_is_not_the_servers(tmp, clusters, fresh):
    """
    The server runs in a namespace in which its data directory lies where another cluster's lies for
    us, as it is with a container.
    """
    ours, theirs = clusters("ours"), clusters("theirs")
    theirs.sql("create table only_theirs as select 1 as one")
    ours.stop()
    theirs.stop()
    run_dir, port = theirs.run_dir, pg.free_port()
    script = ("mount --bind %s %s && exec runuser -u postgres -- %s/postgres -D %s -p %d -k %s"
              % (theirs.data, ours.data, pg.BIN, ours.data, port, run_dir))
    with open(tmp + "/log", "wb") as log:
        server = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c",
                                   script], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                  cwd="/", env=pg.server_env())
    conninfo = "host=%s port=%d dbname=postgres user=postgres" % (run_dir, port)
    try:
        assert pg.wait_for(lambda: pg.run("psql", "-XAtqd", conninfo, "-c", "select 1",
                                          check=False).strip() == "1")
        fresh.run("source", "add", "main", "--pg", conninfo)
        r = fresh.run("backup", "main", "--over", "local", status=None)
        assert r.status != vault.DONE and r.err.strip(), str(r)
        fresh.backup("main")
        assert "replication" in fresh.run("snapshots", "main", "--json").out
    finally:
        # Its data directory is known here by its own path.
        pg.run("pg_ctl", "-D", theirs.data, "-m", "immediate", "stop", check=False)
        server.wait(60)
    fresh.restore("main@latest", tmp + "/r")
    with pg.start_copy(tmp + "/r", tmp, "run") as s:
        assert s.sql("select one from only_theirs") == "1"


# ---- full disks ----

@pytest.fixture
def small_disk(tmp):
    """A file system of 40 MB; resize(mb)."""
    if not pg.ROOT:
        pytest.skip("needs root: a small tmpfs is mounted")
    where = tmp + "/disk"
    os.mkdir(where)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", where], check=True)

    def resize(mb):
        subprocess.run(["mount", "-o", "remount,size=%dm" % mb, where], check=True)

    yield where, resize
    subprocess.run(["umount", "-l", where], check=True)


@pytest.fixture(scope="module")
def noisy(clusters):
    """A cluster whose content does not compress: some 60 MB."""
    c = clusters("noisy")
    c.sql("create extension pgcrypto")
    c.sql("create table noise as select g as id, gen_random_bytes(1000) as b "
          "from generate_series(1, 100) g; checkpoint")
    return c


def test_disk_full_in_the_repository(tmp, noisy, small_disk):
    where, resize = small_disk
    p = vault.Pastfs(tmp, repo=where + "/repo").init()
    p.run("source", "add", "main", "--pg", noisy.conninfo())
    p.backup("main")
    before = vault.tree(p.restore("main@latest", tmp + "/before", "--keep-archiving"))
    noisy.sql("insert into noise select g, gen_random_bytes(1000) from generate_series(1, 50000) g")
    r = p.run("backup", "main", status=vault.NOSPACE)
    assert "space" in r.err, str(r)
    assert len(p.snapshots("main")) == 1
    p.run("check", "--read-data")
    first = p.snapshots("main")[0]["name"]
    vault.assert_same(before, vault.tree(p.restore("main@" + first, tmp + "/after",
                                                     "--keep-archiving")))
    resize(250)
    p.backup("main")
    p.run("check", "--read-data")
    p.restore("main@latest", tmp + "/r")
    with pg.start_copy(tmp + "/r", tmp, "run") as s:
        query = "select count(*), sum(hashtext(encode(b, 'hex'))::bigint) from noise"
        assert s.sql(query) == noisy.sql(query)


def test_disk_full_at_the_restore_target(origin, small_disk):
    where, resize = small_disk
    resize(20)
    to = where + "/r"
    r = origin.run("restore", "main@latest", to, "--keep-archiving", status=vault.NOSPACE)
    assert "space" in r.err or "free" in r.err, str(r)
    assert not os.path.exists(to + "/global/pg_control"), "half a directory would start"
    resize(200)
    origin.run("restore", "main@latest", to, "--keep-archiving")
    vault.assert_same(vault.tree(origin.trees[origin.names[-1]]), vault.tree(to))


def test_no_cache_directory_can_be_made(tmp, broken):
    """The index has no place: told, not a crash."""
    if pg.ROOT:
        blocked = tmp + "/file"
        open(blocked, "w").close()
        r = broken.run("check", env={"XDG_CACHE_HOME": blocked}, status=None)
        assert r.status == vault.DONE or blocked in r.err, str(r)


def test_leftovers_of_a_crash_do_no_harm(broken):
    """Files that no put of ours finished lie about in the repository."""
    d = os.path.dirname(broken.packs()[0])
    for name in ("tmp.123", ".partial"):
        with open(os.path.join(d, name), "wb") as f:
            f.write(b"half")
    with open(broken.repo + "/snapshots/.junk", "wb") as f:
        f.write(b"x")
    assert broken.run("check", status=None).status in (vault.DONE, vault.DAMAGED)
    assert glob.glob(d + "/tmp.123")
