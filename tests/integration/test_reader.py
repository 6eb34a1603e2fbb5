"""
docs/format.md is enough: a reader written from it alone (reader.py) opens the golden repository, and
one that pastfs has just made of a real cluster, and finds everything.
"""
import hashlib
import os

import pytest

pytest.importorskip("argon2")
pytest.importorskip("xxhash")
pytest.importorskip("zstandard")
pytest.importorskip("cryptography")

import golden   # noqa: E402
import reader   # noqa: E402
import vault    # noqa: E402

TYPES = {1: "file", 2: "dir", 3: "symlink", 4: "fifo"}


def content_sum(repo, content):
    h = hashlib.sha256()
    zeros = bytes(1 << 20)
    for length, data in repo.chunks(content):
        if data is None:
            while length:
                n = min(length, len(zeros))
                h.update(zeros[:n])
                length -= n
        else:
            h.update(data)
    return h.hexdigest()


def test_the_examples_of_the_document():
    key = bytes(range(32))
    assert reader.derive(key, b"", "label", 32).hex() == \
        "479dd84d163df1782566e1803faf199e24d3af4dcc119c299dc0190b1c46198f"
    assert reader.crc32c(b"123456789") == 0xE3069283
    import xxhash
    assert xxhash.xxh3_128_hexdigest(b"123456789") == "33119477ede5dcd5e9716427681d5860"


@pytest.fixture(scope="module", params=golden.DIRS, ids=os.path.basename)
def opened(request):
    d = request.param
    with open(os.path.join(d, "passphrase"), "rb") as f:
        passphrase = f.read().rstrip(b"\n")
    return reader.Repository(os.path.join(d, "repo"), passphrase), golden.entries(d), d


def test_golden_repository(opened):
    repo, want, _ = opened
    snapshots = repo.snapshots(repo.sources()["golden"])
    assert sorted(snapshots) == sorted(want)
    sums = {}
    for name, (root, pg_part) in snapshots.items():
        assert reader.number(pg_part[0x8001][0]) == 7300000000000000001
        seen = set()
        for path, e in repo.walk(root):
            w = want[name][path]
            seen.add(path)
            assert (TYPES[e.type], e.mode, e.uid, e.gid, e.mtime, e.xattrs) == \
                (w.type, w.mode, w.uid, w.gid, w.mtime, w.xattrs), path
            assert e.target == w.target
            if w.type == "file":
                assert e.content.size == w.size
                again = tuple(e.content.refs)
                if again not in sums or not again:
                    sums[again] = content_sum(repo, e.content)
                assert sums[again] == w.sum, path
        assert seen == set(want[name])
    assert repo.encodings == {0, 1, 2}, "the golden repository shows every encoding"


def test_the_key_file_opens_it_too(opened):
    repo, _, d = opened
    with open(os.path.join(d, "key"), "rb") as f:
        other = reader.Repository(os.path.join(d, "repo"), key_file=f.read())
    assert other.master == repo.master
    with pytest.raises(reader.Broken):
        reader.Repository(os.path.join(d, "repo"), b"not the passphrase")


def test_packs_alone_tell_where_chunks_are(opened):
    repo, _, _ = opened
    assert repo.places_from_packs() == repo.places


def test_a_repository_of_a_real_cluster(shared, cluster, tmp):
    cluster.sql("update pgbench_accounts set abalance = 5 where aid % 20000 = 0")
    shared.backup("main")
    to = shared.restore("main@latest", tmp + "/r", "--keep-archiving")
    with open(shared.passfile, "rb") as f:
        repo = reader.Repository(shared.repo, f.read().rstrip(b"\n"))
    snapshots = repo.snapshots(repo.sources()["main"])
    root, _ = snapshots[max(snapshots, key=lambda n: n.replace("Z", ".0"))]
    want = vault.tree(to, times=False)
    seen = set()
    for path, e in repo.walk(root):
        name = os.fsdecode(path)
        if not name:
            continue
        seen.add(name)
        assert e.mode == want[name][1] or e.type == 3
        # The largest files by a sample: this reader is plain, not fast.
        if e.type == 1 and (e.content.size < 1 << 20 or name.endswith("1") or
                            name.startswith("pg_wal")):
            assert content_sum(repo, e.content) == want[name][4][1], name
    assert seen == set(want)
    assert 2 in repo.encodings
