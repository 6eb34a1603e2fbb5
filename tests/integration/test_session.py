"""
The session of the manual, as written, on a database that pastfs did not make.

As root it runs in a mount namespace of its own, in which /srv, /mnt, /root, /tmp and
/var/run/postgresql are the test's, so that the very words of the manual can be typed.
"""
import json
import os
import subprocess

import pytest

import pg
import vault

SESSION = r"""
export PASTFS_REPO=/srv/vault PASTFS_PASSPHRASE_FILE=/root/pass
pastfs init /srv/vault
pastfs source add main --pg 'host=/var/run/postgresql dbname=postgres'
pastfs backup main
pastfs snapshots main --json >/srv/snapshots.json
pastfs mount /mnt/past
ls /mnt/past/main/snapshots/ >/srv/listing
pg_verifybackup /mnt/past/main/snapshots/latest
cp -a /mnt/past/main/snapshots/latest /tmp/copy && pg_ctl -D /tmp/copy -o '-p 5555' start
"""
ANSWER = r"""
psql -h /var/run/postgresql -p 5555 -U postgres -XAtc "$QUERY" postgres >/srv/answer
pg_ctl -D /tmp/copy -m fast stop
"""
SESSION_END = r"""
pastfs restore main@latest /tmp/restored
pastfs umount /mnt/past
pastfs check --read-data
"""
KEEP = "cp /srv/answer /srv/listing /srv/snapshots.json "
QUERY = "select count(*), sum(abalance), sum(aid::bigint * bid) from pgbench_accounts"


# The surroundings.  Only `pg_ctl` and the test's own psql need another user than root.  The test's
# directory and the program stay where they are although /tmp and /root are covered.
PRELUDE = r"""
set -eu
mount --bind "$PRIVATE/mnt" /mnt
mkdir /mnt/past /mnt/base /mnt/bin
mount --bind "$BASE" /mnt/base
mount --bind "$BIN_DIR" /mnt/bin
mount -t tmpfs none /srv
mount -t tmpfs none /root
mount --bind "$SOCKETS" /var/run/postgresql
mount --bind "$PRIVATE/tmp" /tmp
mkdir -p "$BASE"
mount --bind /mnt/base "$BASE"
export PATH="/mnt/bin:$PG_BIN:$PATH" HOME=/root
umask 022; echo "a passphrase" >/root/pass; chmod 600 /root/pass
trap 'pastfs umount /mnt/past 2>/dev/null || umount -l /mnt/past 2>/dev/null || :
	runuser -u postgres -- "$PG_BIN/pg_ctl" -D /tmp/copy -m immediate stop >/dev/null 2>&1 || :' EXIT
pg_ctl() { runuser -u postgres -- "$PG_BIN/pg_ctl" -w -l /tmp/copy.log "$@"; }
psql() { runuser -u postgres -- "$PG_BIN/psql" "$@"; }
set -x
"""


@pytest.mark.root
@pytest.mark.fuse
def test_the_session_as_written(base, tmp, clusters):
    private = os.path.join(tmp, "private")
    for d in ("mnt", "tmp"):
        os.makedirs(os.path.join(private, d))
        os.chmod(os.path.join(private, d), 0o1777)
    out = os.path.join(tmp, "out")
    os.mkdir(out)
    sockets = pg.owned_dir(os.path.join(tmp, "sockets"), 0o755)
    c = clusters("session")
    c.stop()
    # It answers on the socket Debian's would, and asks for peer authentication as Debian's does.
    with open(c.data + "/pg_hba.conf", "w") as f:
        f.write("local all postgres peer\nlocal replication all peer\n")
    with open(c.data + "/postgresql.conf", "a") as f:
        f.write("unix_socket_directories = '/var/run/postgresql'\nport = 5432\n"
                "listen_addresses = ''\n")
    c.run_dir, c.port = sockets, 5432
    c.start()
    c.pgbench("-i", "-q", "-s", "2")
    c.pgbench("-n", "-t", "200")
    expected = c.sql(QUERY)

    env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PASTFS_", "XDG_"))}
    env.update(BIN_DIR=os.path.dirname(vault.BIN), PG_BIN=pg.BIN, PRIVATE=private, BASE=base,
               SOCKETS=sockets, QUERY=QUERY, LC_ALL="C.UTF-8")
    script = PRELUDE + SESSION + ANSWER + SESSION_END + KEEP + out
    p = subprocess.run(["unshare", "--mount", "--propagation", "private", "bash", "-c", script],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, errors="replace", cwd="/", env=env, timeout=150 * vault.SLOW)
    assert p.returncode == 0, p.stdout
    answer, listing, snapshots = (open(os.path.join(out, n)).read()
                                  for n in ("answer", "listing", "snapshots.json"))
    assert answer.strip() == expected, p.stdout
    assert len(listing.split()) == 2 and "latest" in listing, listing
    snapshots = json.loads(snapshots)
    assert len(snapshots["snapshots"] if isinstance(snapshots, dict) else snapshots) == 1
    # Nothing stays behind on the server.
    assert c.sql("select count(*) from pg_replication_slots") == "0"
    assert not os.path.exists(c.data + "/backup_label")


@pytest.mark.fuse
def test_the_session_on_other_paths(tmp, cluster):
    """The same steps without root's privileges or a namespace, in directories of the test."""
    p = vault.Pastfs(tmp)
    p.run("init", p.repo)
    p.run("source", "add", "main", "--pg", cluster.conninfo())
    p.run("backup", "main")
    expected = cluster.sql(QUERY)
    assert len(p.snapshots("main")) == 1
    with p.mounted() as mnt:
        names = sorted(os.listdir(mnt + "/main/snapshots"))
        assert len(names) == 2 and names[1] == "latest"
        latest = mnt + "/main/snapshots/latest"
        assert os.path.isdir(latest) and not os.path.islink(latest)
        pg.run("pg_verifybackup", latest)
        copy = tmp + "/copy"
        subprocess.run(["cp", "-a", latest, copy], check=True, timeout=60)
    with pg.start_copy(copy, tmp, "copied") as s:
        assert s.sql(QUERY) == expected
        assert s.sql("select pg_is_in_recovery()") == "f"
    p.restore("main@latest", tmp + "/restored")
    with pg.start_copy(tmp + "/restored", tmp, "started") as s:
        assert s.sql(QUERY) == expected
    p.run("check", "--read-data")
