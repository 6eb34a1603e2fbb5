"""Every golden repository opens and holds what was written into it, whatever the version now."""
import hashlib
import os
import shutil
import stat

import pytest

import golden
import pg
import vault


@pytest.fixture(scope="module", params=golden.DIRS, ids=os.path.basename)
def opened(request, base):
    d = request.param
    path = os.path.join(base, "golden-" + os.path.basename(d))
    os.mkdir(path, 0o755)
    # A copy: nothing may be written into the source tree, not even a lock.
    shutil.copytree(os.path.join(d, "repo"), path + "/repo")
    shutil.copy(os.path.join(d, "passphrase"), path + "/pass")
    shutil.copy(os.path.join(d, "key"), path + "/key")
    for name in ("pass", "key"):
        os.chmod(os.path.join(path, name), 0o600)
    return vault.Pastfs(path), golden.entries(d), path


def test_there_is_one():
    assert golden.DIRS


def test_it_is_whole(opened):
    p, want, path = opened
    before = vault.tree(p.repo)
    p.run("check", "--read-data")
    p.run("check", "--read-data", "--key-file", path + "/key", env={"PASTFS_PASSPHRASE_FILE": ""})
    assert sorted(s["name"] for s in p.snapshots("golden")) == sorted(want)
    vault.assert_same(before, vault.tree(p.repo), "the repository before and after reading it")


def compare(top, want):
    """What is below `top` against the list; owners only where they can be set."""
    seen = {b""}
    for d, dirs, names in os.walk(os.fsencode(top)):
        rel = os.path.relpath(d, os.fsencode(top))
        seen.update(os.path.normpath(os.path.join(rel, n)) for n in dirs + names)
    assert seen == set(want)
    for name, e in want.items():
        path = os.path.join(os.fsencode(top), name) if name else os.fsencode(top)
        st = os.lstat(path)
        assert stat.S_IFMT(st.st_mode) == golden.TYPES[e.type], name
        if e.type == "symlink":
            assert os.readlink(path) == e.target
        else:
            assert stat.S_IMODE(st.st_mode) == e.mode, name
        if pg.ROOT:
            assert (st.st_uid, st.st_gid) == (e.uid, e.gid), name
        assert st.st_mtime_ns == e.mtime[0] * 10**9 + e.mtime[1], name
        if e.type == "file":
            assert st.st_size == e.size
            h = hashlib.sha256()
            with open(path, "rb") as f:
                while block := f.read(1 << 20):
                    h.update(block)
            assert h.hexdigest() == e.sum, name
        if e.type in ("file", "dir"):
            assert {k: os.getxattr(path, k) for k in os.listxattr(path)
                    if k.startswith("user.")} == e.xattrs, name


def test_restored(opened, tmp):
    p, want, _ = opened
    for name, entries in want.items():
        to = p.restore("golden@" + name, os.path.join(tmp, name), "--keep-archiving")
        same = os.stat(to + "/doc/same.a").st_ino == os.stat(to + "/doc/same.b").st_ino
        assert same, "the hard link is gone"
        assert os.stat(to + "/base/5/sparse").st_blocks < 1000, "holes became blocks"
        compare(to, entries)


@pytest.mark.fuse
@pytest.mark.root
def test_mounted(opened):
    p, want, _ = opened
    with p.mounted() as where:
        for name, entries in want.items():
            compare(where + "/golden/snapshots/" + name, entries)
