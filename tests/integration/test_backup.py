"""What a backup keeps, what the next one costs, and that what comes back is PostgreSQL's own data."""
import os
import shutil
import subprocess

import pytest

import pg
import vault

PGBENCH_SUM = "select count(*), sum(abalance) from pgbench_accounts"


def restore_and_start(p, base, what="main@latest", name="restored"):
    p.restore(what, os.path.join(base, name))
    return pg.start_copy(os.path.join(base, name), base, name + ".run")


@pytest.fixture(scope="module")
def rich(clusters):
    """A cluster with what databases have besides plain tables."""
    c = clusters("rich")
    c.pgbench("-i", "-q", "-s", "1")
    c.sql("create unlogged table fleeting as select g as id from generate_series(1, 20000) g;"
          "create index on fleeting (id);"
          "create table wide (id int primary key, body text);"
          "alter table wide alter body set storage external;"
          "insert into wide select g, repeat(md5(g::text), 2000) from generate_series(1, 200) g;"
          "create table filled as select g as id, md5(g::text) as t from generate_series(1,50000) g;"
          "create index on filled using gin (to_tsvector('simple', t));"
          "create materialized view seen as select count(*) from filled;"
          "create sequence counting; select nextval('counting') from generate_series(1, 77);"
          "create role someone; grant select on filled to someone")
    for i in range(4):
        c.sql("select lo_from_bytea(%d, decode(repeat(md5('%d'), 20000), 'hex'))" % (5000 + i, i))
    c.sql("create database other")
    c.sql("create table elsewhere as select generate_series(1, 1000) as n", db="other")
    c.sql("vacuum analyze")
    c.sql("checkpoint")
    return c


@pytest.mark.parametrize("checksums", [True, False])
def test_dump_and_amcheck_of_a_restored_cluster(tmp, clusters, rich, fresh, checksums):
    if checksums:
        c = rich
    else:
        c = clusters("nosums", checksums=False)
        c.pgbench("-i", "-q", "-s", "1")
        c.sql("select lo_from_bytea(77, decode(repeat('ab', 300000), 'hex'))")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    fresh.backup("main")
    with restore_and_start(fresh, tmp) as s:
        for db in ("postgres", "other") if checksums else ("postgres",):
            assert s.dump(db) == c.dump(db)
            s.amcheck(db)
        assert s.sql("show data_checksums") == ("on" if checksums else "off")
        assert "PANIC" not in s.log_text()
    snapshot = fresh.snapshots("main")[0]
    assert "bad" not in str(snapshot).lower() or fresh.run("check").status == 0


def test_unlogged_tables_come_back_empty(tmp, rich, fresh):
    assert rich.sql("select count(*) from fleeting") == "20000"
    node = rich.sql("select pg_relation_filepath('fleeting')")
    fresh.run("source", "add", "main", "--pg", rich.conninfo())
    fresh.backup("main")
    fresh.restore("main@latest", tmp + "/r")
    # Only the init fork is in the snapshot; the server makes the rest of it.
    assert os.path.exists(tmp + "/r/" + node + "_init")
    assert not os.path.exists(tmp + "/r/" + node)
    with pg.start_copy(tmp + "/r", tmp, "run") as s:
        assert s.sql("select count(*) from fleeting") == "0"
        s.sql("insert into fleeting values (1)")
        assert s.sql("select id from fleeting where id = 1") == "1"


def test_large_objects_are_equal(tmp, rich, fresh):
    query = "select loid, md5(string_agg(data, '' order by pageno)) from pg_largeobject group by 1" \
            " order by 1"
    before = rich.sql(query)
    assert before.count("\n") == 3
    fresh.run("source", "add", "main", "--pg", rich.conninfo())
    fresh.backup("main")
    with restore_and_start(fresh, tmp) as s:
        assert s.sql(query) == before


def test_a_tablespace_is_inside_the_snapshot_and_the_original_is_not_touched(
        tmp, clusters, fresh):
    c = clusters("spaces")
    place = pg.owned_dir(os.path.join(c.run_dir, "space"))
    c.sql("create tablespace aside location '%s'" % place)
    c.sql("create table kept (id int primary key, t text) tablespace aside;"
          "insert into kept select g, md5(g::text) from generate_series(1, 30000) g;"
          "create table here as select 1 as one")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    fresh.backup("main")
    c.sql("insert into kept select g, 'later' from generate_series(30001, 31000) g; checkpoint")
    before = vault.tree(place)
    for i, how in enumerate(("restore", "replication")):
        if how == "replication":
            fresh.backup("main", "--over", "replication")
            before = vault.tree(place)
        to = "%s/r%d" % (tmp, i)
        fresh.restore("main@latest", to)
        links = os.listdir(to + "/pg_tblspc")
        assert len(links) == 1
        target = os.path.realpath(to + "/pg_tblspc/" + links[0])
        assert target.startswith(os.path.realpath(to) + "/"), target
        with pg.start_copy(to, tmp, "run%d" % i) as s:
            assert s.sql("select count(*) from kept") == ("30000" if i == 0 else "31000")
            s.sql("update kept set t = 'changed by the copy'; checkpoint")
            s.sql("create table more tablespace aside as select generate_series(1, 1000) as g")
        vault.assert_same(before, vault.tree(place), "the original's tablespace")
    assert c.sql("select count(*) from kept where t like 'changed%'") == "0"


def test_a_copy_made_by_cp_does_not_touch_the_original_tablespace(tmp, clusters, fresh):
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    c = clusters("spaces2")
    place = pg.owned_dir(os.path.join(c.run_dir, "space"))
    c.sql("create tablespace aside location '%s'" % place)
    c.sql("create table kept tablespace aside as select generate_series(1, 5000) as id")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    # Written after the backup began to be kept as WAL: replay touches the tablespace.
    fresh.backup("main")
    before = vault.tree(place)
    with fresh.mounted() as mnt:
        subprocess.run(["cp", "-a", mnt + "/main/snapshots/latest/", tmp + "/copy"], check=True,
                       timeout=60)
    with pg.start_copy(tmp + "/copy", tmp, "run") as s:
        s.sql("delete from kept where id % 2 = 0; checkpoint")
        assert s.sql("select count(*) from kept") == "2500"
    vault.assert_same(before, vault.tree(place), "the original's tablespace")


def test_a_relation_over_one_gigabyte(tmp, clusters, fresh):
    """
    Two segments, the first mostly a hole: the heap of a stopped cluster is lengthened by truncate,
    as all-zero pages are legal.
    """
    c = clusters("giant")
    c.sql("create table giant (id int, t text);"
          "insert into giant select g, repeat('x', 100) from generate_series(1, 1000) g; checkpoint")
    path = c.data + "/" + c.sql("select pg_relation_filepath('giant')")
    c.stop()
    with open(path, "rb") as f:
        pages = f.read()
    os.truncate(path, 1 << 30)
    with open(path + ".1", "wb") as f:
        f.write(bytes(len(pages)))
        f.truncate(40 << 20)
    shutil.copymode(path, path + ".1")
    if pg.ROOT:
        os.chown(path + ".1", pg.UID, pg.GID)
    c.start()
    # Something real at the far end, in the second segment.
    c.sql("insert into giant select g, 'far' from generate_series(1001, 1010) g; checkpoint")
    count = c.sql("select count(*), sum(id) from giant")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    fresh.backup("main")
    assert fresh.stored_bytes() < 100 << 20
    assert fresh.snapshots("main")
    to = fresh.restore("main@latest", tmp + "/r")
    node = to + path[len(c.data):]
    assert os.path.getsize(node) == 1 << 30 and os.path.getsize(node + ".1") == 40 << 20
    assert os.stat(node).st_blocks * 512 < 100 << 20, "holes became blocks"
    with pg.start_copy(to, tmp, "run") as s:
        assert s.sql("select count(*), sum(id) from giant") == count


def test_load_during_the_backup(tmp, clusters, fresh):
    c = clusters("loaded")
    c.pgbench("-i", "-q", "-s", "2")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    load = c.load(25 if vault.SLOW == 1 else 90)
    try:
        fresh.backup("main")
        fresh.backup("main")
        fresh.backup("main", "--over", "replication")
        assert load.poll() is None, "the load ended before the backups did"
    finally:
        load.terminate()
        load.wait()
    for i, s in enumerate(fresh.snapshots("main")):
        with restore_and_start(fresh, tmp, "main@" + s["name"], "r%d" % i) as copy:
            copy.pgbench_is_consistent()
            assert copy.sql("select count(*) from pgbench_accounts") == "200000"
            copy.amcheck()


def test_incremental_is_equal_to_the_data_directory_and_costs_little(tmp, clusters, fresh):
    c = clusters("growing")
    c.pgbench("-i", "-q", "-s", "5")
    c.sql("create table seen (id int primary key, t text);"
          "insert into seen select g, md5(g::text) from generate_series(1, 20000) g")
    c.sql("vacuum freeze")
    c.sql("checkpoint")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    fresh.backup("main")
    first = fresh.stored_bytes()

    # A little change, scattered; and cleared bits of the visibility map, which leave neither a new
    # page LSN in the map nor a reference in the WAL.
    c.sql("update pgbench_accounts set abalance = abalance + 1 where aid % 5000 = 0;"
          "delete from seen where id between 100 and 110; insert into seen values (-1, 'new')")
    c.sql("checkpoint")
    report = fresh.backup("main")
    cost = fresh.stored_bytes() - first
    assert cost < 3 << 20, "the second backup stored %d bytes (%s)" % (cost, report)
    assert cost < first / 4

    # The whole content, with every fork, against the stopped original.
    fresh.restore("main@latest", tmp + "/second")
    c.stop()
    try:
        vault.assert_same(vault.data_tree(c.data), vault.data_tree(tmp + "/second"))
    finally:
        c.start()

    # Nothing changed: nothing worth mention is stored.
    before = fresh.stored_bytes()
    fresh.backup("main")
    assert fresh.stored_bytes() - before < 1 << 20

    # Reading everything and believing nothing gives the same.
    fresh.backup("main", "--full-read")
    fresh.restore("main@latest", tmp + "/full")
    c.stop()
    try:
        vault.assert_same(vault.data_tree(c.data), vault.data_tree(tmp + "/full"))
    finally:
        c.start()
    with pg.start_copy(tmp + "/second", tmp, "run") as s:
        s.amcheck()
        assert s.sql("select count(*) from seen") == c.sql("select count(*) from seen")


def test_what_page_lsns_and_times_cannot_tell(tmp, clusters, fresh):
    """
    A file that is changed behind PostgreSQL's back with its size and time put back is found by
    --full-read, and a new database made by copying files, whose pages have old LSNs, by any backup.
    """
    c = clusters("sly")
    c.sql("create table t as select generate_series(1, 5000) as id; checkpoint")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    fresh.backup("main")
    c.sql("create database copied template template1 strategy file_copy")
    c.sql("create table inside as select generate_series(1, 100) as n", db="copied")
    c.sql("checkpoint")
    fresh.backup("main")
    path = "/global/pg_filenode.map"
    with open(c.data + path, "rb") as f:
        original = f.read()
    fresh.restore("main@latest", tmp + "/a")
    vault.assert_same(vault.data_tree(c.data), vault.data_tree(tmp + "/a"))
    with open(tmp + "/a" + path, "rb") as f:
        assert f.read() == original


def test_over_replication_gives_the_same_tree(tmp, rich, fresh):
    fresh.run("source", "add", "near", "--pg", rich.conninfo())
    fresh.run("source", "add", "far", "--pg", rich.conninfo())
    rich.sql("checkpoint")
    fresh.backup("near")
    stored = fresh.stored_bytes()
    fresh.backup("far", "--over", "replication")
    assert fresh.stored_bytes() - stored < stored / 3, "the same content was stored again"
    near, far = (vault.data_tree(fresh.restore(n + "@latest", tmp + "/" + n))
                 for n in ("near", "far"))
    vault.assert_same(near, far)
    for n in ("near", "far"):
        pg.run("pg_verifybackup", tmp + "/" + n, user=False)
    with pg.start_copy(tmp + "/far", tmp, "run") as s:
        assert s.dump() == rich.dump()


@pytest.mark.root
def test_replication_is_chosen_where_the_files_cannot_be_read(tmp, cluster):
    """An ordinary user who may not read the data directory backs it up all the same."""
    os.makedirs(tmp + "/v")
    p = vault.Pastfs(tmp + "/v", user=(65534, 65534))
    p.init()
    p.run("source", "add", "main", "--pg", cluster.conninfo())
    p.backup("main")
    assert "replication" in p.run("snapshots", "main", "--json").out
    p.run("backup", "main", "--over", "local", status=None)
    assert p.run("backup", "main", "--over", "local", status=None).status != vault.DONE
    p.restore("main@latest", tmp + "/v/r")
    shutil.move(tmp + "/v/r", tmp + "/r")
    subprocess.run(["chown", "-R", "%d:%d" % (pg.UID, pg.GID), tmp + "/r"], check=True)
    with pg.start_copy(tmp + "/r", tmp, "run") as s:
        assert s.sql(PGBENCH_SUM) == cluster.sql(PGBENCH_SUM)


def test_configuration_outside_the_data_directory(tmp, clusters, fresh):
    """As Debian has it: the copy starts on its own data, not on the original's."""
    c = clusters("apart")
    etc = pg.owned_dir(os.path.join(c.run_dir, "etc"), 0o755)
    c.sql("create table t as select 42 as answer")
    c.stop()
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        shutil.move(os.path.join(c.data, name), os.path.join(etc, name))
    with open(etc + "/postgresql.conf", "a") as f:
        f.write("data_directory = '%s'\nhba_file = '%s/pg_hba.conf'\n"
                "ident_file = '%s/pg_ident.conf'\nexternal_pid_file = '%s/pid'\n"
                "cluster_name = 'apart'\n" % (c.data, etc, etc, c.run_dir))
    subprocess.run(["chown", "-R", "%d:%d" % (pg.UID, pg.GID), etc], check=pg.ROOT)
    c.options = "-c config_file=%s/postgresql.conf" % etc
    c.start()
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    fresh.backup("main")
    c.sql("update t set answer = 1")
    to = fresh.restore("main@latest", tmp + "/r")
    with pg.start_copy(to, tmp, "run") as s:
        assert os.path.realpath(s.sql("show data_directory")) == os.path.realpath(to)
        assert s.sql("select answer from t") == "42"
        assert s.sql("show cluster_name") == "apart"
        s.sql("update t set answer = 7; checkpoint")
        with open(c.run_dir + "/pid") as f:
            pid = int(f.read())
        assert os.path.realpath("/proc/%d/cwd" % pid) == os.path.realpath(c.data)
    assert c.sql("select answer from t") == "1"
    # And its configuration of /etc is in the snapshot to look at.
    listing = fresh.run("ls", "-R", "main@latest", status=None)
    assert listing.status != 0 or "postgresql.conf" in listing.out


def test_a_restored_cluster_does_not_archive(tmp, clusters, fresh):
    c = clusters("archiving")
    archive = pg.owned_dir(os.path.join(c.run_dir, "archive"))
    with open(c.data + "/postgresql.conf", "a") as f:
        f.write("archive_mode = on\narchive_command = 'test ! -f %s/%%f && cp %%p %s/%%f'\n"
                % (archive, archive))
    c.stop()
    c.start()
    c.sql("create table t as select 1 as one; select pg_switch_wal()")
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    fresh.backup("main")
    assert pg.wait_for(lambda: c.sql("select last_archived_wal is not null and not exists (select 1 "
                                     "from pg_ls_dir('pg_wal/archive_status') f where f like "
                                     "'%.ready') from pg_stat_archiver") == "t")
    c.stop()
    before = vault.tree(archive, times=False)
    to = fresh.restore("main@latest", tmp + "/r")
    with pg.start_copy(to, tmp, "run") as s:
        s.sql("insert into t values (2); select pg_switch_wal()")
        s.sql("insert into t values (3); select pg_switch_wal()")
        assert s.sql("select count(*) from t") == "3"
        assert s.sql("show archive_mode") == "off" or s.sql("show archive_command") in ("", "(disabled)")
    vault.assert_same(before, vault.tree(archive, times=False), "the original's archive")
    # Unless told otherwise.
    to = fresh.restore("main@latest", tmp + "/k", "--keep-archiving")
    with pg.start_copy(to, tmp, "run2") as s:
        assert s.sql("show archive_mode") == "on"


def test_the_manifest_satisfies_pg_verifybackup(shared, tmp):
    to = shared.restore("main@latest", tmp + "/r")
    pg.run("pg_verifybackup", to, user=False)
    # And it is not satisfied by anything: a changed byte is told.
    with open(to + "/PG_VERSION", "r+b") as f:
        f.write(b"9")
    with pytest.raises(AssertionError):
        pg.run("pg_verifybackup", to, user=False)


def test_a_bad_page_is_reported_and_kept(tmp, clusters, fresh):
    c = clusters("rotten")
    c.sql("create table rotten as select g as id, md5(g::text) as t from generate_series(1, 5000) g;"
          "checkpoint")
    path = c.sql("select pg_relation_filepath('rotten')")
    c.stop()
    with open(c.data + "/" + path, "r+b") as f:
        f.seek(3 * 8192 + 4000)
        f.write(b"\xff\x00\xff\x00")
    damaged = vault.file_sum(c.data + "/" + path)
    c.start()
    fresh.run("source", "add", "main", "--pg", c.conninfo())
    r = fresh.run("backup", "main", status=None)
    assert path in r.err + r.out and "3" in r.err + r.out, str(r)
    recorded = fresh.run("snapshots", "main", "--json").out
    assert path in recorded or '"bad_pages"' in recorded or "warnings" in recorded
    # What was there is kept as it was: repairing it is not a backup's business.
    fresh.restore("main@latest", tmp + "/r")
    assert vault.file_sum(tmp + "/r/" + path) == damaged


def test_nothing_stays_behind_on_the_server(cluster, main):
    main.backup("main")
    main.backup("main", "--over", "replication")
    assert cluster.sql("select count(*) from pg_replication_slots") == "0"
    assert pg.wait_for(lambda: cluster.sql(
        "select count(*) from pg_stat_activity where application_name like 'pastfs%'") == "0")


def test_owners_modes_and_times(tmp, cluster, main):
    """A restored tree has the original's metadata, files being equal."""
    cluster.sql("checkpoint")
    main.backup("main")
    to = main.restore("main@latest", tmp + "/r")
    skip = vault.NOT_COMPARED + ("base", "global", "pg_xact", "pg_multixact", "pg_logical")
    vault.assert_same(vault.tree(cluster.data, skip, owners=pg.ROOT),
                      vault.tree(to, skip, owners=pg.ROOT))
    assert os.stat(to).st_mode & 0o777 == os.stat(cluster.data).st_mode & 0o777
