"""Backups over a replication connection: everything that differs from reading the files here."""
import os
import re
import shutil
import subprocess
import time

import pg
import vault

SUM = "select count(*), sum(id), sum(length(t)) from big"


def add(p, name, server, **kw):
    p.run("source", "add", name, "--pg", server.conninfo(**kw))


def wal_names(top):
    return sorted(n for n in os.listdir(top + "/pg_wal") if re.fullmatch("[0-9A-F]{24}", n))


def test_large_relations_in_spans_with_small_segments_under_load(tmp, clusters, fresh):
    """Several workers share one relation, WAL comes in many segments, and rows keep changing."""
    c = clusters("spans", initdb=("--wal-segsize=1",))
    c.pgbench("-i", "-q", "-s", "1")
    c.sql("create table big (id int, t text) with (fillfactor = 90)")
    c.sql("insert into big select g, repeat(md5(g::text), 20) from generate_series(1, 220000) g")
    assert int(c.sql("select pg_relation_size('big')")) > 2 * 64 << 20
    c.sql("checkpoint")
    add(fresh, "main", c)
    load = c.load(60, rate=300)
    try:
        first = fresh.backup("main", "--over", "replication", "-j", "3")
        c.sql("update big set t = 'short' where id % 5000 = 0")
        second = fresh.backup("main", "--over", "replication", "-j", "3")
    finally:
        load.kill()
        load.wait()
    assert first and second
    to = fresh.restore("main@latest", tmp + "/r")
    assert len(wal_names(to)) >= 1
    for n in wal_names(to):
        assert os.path.getsize(to + "/pg_wal/" + n) == 1 << 20
    pg.run("pg_verifybackup", to, user=False)
    with pg.start_copy(to, tmp, "run") as s:
        assert s.sql(SUM) == c.sql(SUM)
        assert s.sql("select count(*) from big where t = 'short'") == "44"
        s.pgbench_is_consistent()
        s.amcheck()
    # A second backup of a nearly unchanged relation costs little.
    stored = [s["stored_bytes"] for s in fresh.snapshots("main")]
    assert stored[1] < stored[0] / 2, stored


def test_configuration_outside_the_data_directory(tmp, clusters, fresh):
    """It is read by SQL, and gives the same tree as reading it here."""
    c = clusters("etc")
    etc = pg.owned_dir(os.path.join(c.run_dir, "etc"), 0o755)
    pg.owned_dir(etc + "/conf.d", 0o755)
    c.stop()
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        shutil.move(os.path.join(c.data, name), os.path.join(etc, name))
    with open(etc + "/postgresql.conf", "a") as f:
        f.write("data_directory = '%s'\nhba_file = '%s/pg_hba.conf'\n"
                "ident_file = '%s/pg_ident.conf'\ninclude_dir = 'conf.d'\n" % (c.data, etc, etc))
    with open(etc + "/conf.d/name.conf", "w") as f:
        f.write("cluster_name = 'of conf.d'\n")
    with open(etc + "/conf.d/ignored.txt", "w") as f:
        f.write("nonsense\n")
    subprocess.run(["chown", "-R", "%d:%d" % (pg.UID, pg.GID), etc], check=pg.ROOT)
    c.options = "-c config_file=%s/postgresql.conf" % etc
    c.start()
    add(fresh, "near", c)
    add(fresh, "far", c)
    c.sql("checkpoint")
    fresh.backup("near")
    fresh.backup("far", "--over", "replication")
    near, far = (fresh.restore(n + "@latest", tmp + "/" + n) for n in ("near", "far"))
    # Modes and owners cannot be asked for by SQL; everything else is the same.
    vault.assert_same(*({n: (v[0], v[4]) for n, v in vault.data_tree(t).items()}
                        for t in (near, far)))
    with open(far + "/pastfs_config" + etc + "/postgresql.conf") as kept, \
            open(etc + "/postgresql.conf") as original:
        assert kept.read() == original.read()
    pg.run("pg_verifybackup", far, user=False)
    with pg.start_copy(far, tmp, "run") as s:
        assert s.sql("show cluster_name") == "of conf.d"
        assert os.path.realpath(s.sql("show data_directory")) == os.path.realpath(far)


def test_a_role_that_may_only_replicate(tmp, clusters, fresh):
    c = clusters("narrow")
    c.sql("create table t as select 42 as answer; create role carrier login replication")
    with open(c.data + "/pg_hba.conf", "w") as f:
        f.write("local all postgres trust\nlocal replication carrier trust\n")
    c.sql("select pg_reload_conf()")
    add(fresh, "main", c, user="carrier")
    assert pg.wait_for(lambda: subprocess.run(
        [pg.BIN + "/psql", "-d", c.conninfo(user="carrier"), "-c", "select 1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0)
    fresh.backup("main")
    to = fresh.restore("main@latest", tmp + "/r")
    pg.run("pg_verifybackup", to, user=False)
    with pg.start_copy(to, tmp, "run") as s:
        assert s.sql("select answer from t") == "42"


def test_a_role_that_may_not_replicate_is_told_what_to_do(clusters, fresh):
    c = clusters("forbidden")
    c.sql("create role nobody_special login")
    add(fresh, "main", c, user="nobody_special")
    r = fresh.run("backup", "main", "--over", "replication", status=vault.FAILED)
    assert "REPLICATION" in r.err
    assert fresh.snapshots("main") == []


def test_no_slot_left_on_the_server(clusters, fresh):
    c = clusters("noslots", conf="max_replication_slots = 0")
    add(fresh, "main", c)
    for way in ("local", "replication"):
        r = fresh.run("backup", "main", "--over", way, status=vault.FAILED)
        assert "max_replication_slots" in r.err, str(r)


def test_another_timeline_and_a_standby(tmp, clusters, fresh):
    """From a promoted cluster comes its history; a standby can be backed up as well."""
    c = clusters("first")
    c.sql("create table t as select 1 as n")
    add(fresh, "main", c)
    fresh.backup("main", "--over", "replication")
    copy = fresh.restore("main@latest", tmp + "/copy")
    with open(copy + "/standby.signal", "w"):
        pass
    os.chown(copy + "/standby.signal", pg.UID, pg.GID)
    with open(copy + "/postgresql.auto.conf", "a") as f:
        f.write("primary_conninfo = '%s'\n" % c.conninfo().replace("dbname=postgres", ""))
    with pg.start_copy(copy, tmp, "run") as s:
        c.sql("insert into t values (2)")
        c.sql("checkpoint")
        assert pg.wait_for(lambda: s.sql("select count(*) from t") == "2")
        add(fresh, "standby", s)
        fresh.backup("standby", "--over", "replication", timeout=300)
        s.sql("select pg_promote()")
        s.sql("insert into t values (3)")
        add(fresh, "next", s)
        fresh.backup("next", "--over", "replication")
        fresh.backup("next")
    for i, (name, rows) in enumerate((("standby", "2"), ("next", "3"))):
        to = fresh.restore(name + "@latest", "%s/r%d" % (tmp, i))
        pg.run("pg_verifybackup", to, user=False)
        if os.path.exists(to + "/standby.signal"):
            os.unlink(to + "/standby.signal")
        if name == "next":
            assert os.path.exists(to + "/pg_wal/00000002.history")
            assert all(n.startswith("00000002") for n in wal_names(to))
        with pg.start_copy(to, tmp, "run%d" % i) as s:
            assert s.sql("select count(*) from t") == rows


def test_a_bad_page_is_read_again_and_reported(tmp, clusters, fresh):
    c = clusters("worn")
    c.sql("create table worn as select g as id, md5(g::text) as t from generate_series(1, 5000) g;"
          "checkpoint")
    path = c.sql("select pg_relation_filepath('worn')")
    c.stop()
    with open(c.data + "/" + path, "r+b") as f:
        f.seek(3 * 8192 + 4000)
        f.write(b"\xff\x00\xff\x00")
    damaged = vault.file_sum(c.data + "/" + path)
    c.start()
    add(fresh, "main", c)
    r = fresh.run("backup", "main", "--over", "replication", "--json")
    assert path + " block 3 has checksum" in r.err + r.out, str(r)
    fresh.restore("main@latest", tmp + "/r")
    assert vault.file_sum(tmp + "/r/" + path) == damaged


def test_a_connection_that_breaks_leaves_the_earlier_snapshot(tmp, clusters, fresh):
    c = clusters("broken", conf="checkpoint_timeout = 1h\ncheckpoint_completion_target = 0.9")
    c.pgbench("-i", "-q", "-s", "2")
    add(fresh, "main", c)
    fresh.backup("main", "--over", "replication")
    c.sql("update pgbench_accounts set abalance = 1")
    # A spread checkpoint takes its time, in which the connections can be cut.
    p = fresh.popen("backup", "main", "--over", "replication", "--spread-checkpoint")
    assert pg.wait_for(lambda: c.sql(
        "select count(*) from pg_stat_activity where backend_type = 'walsender'") == "2")
    time.sleep(0.3)
    c.sql("select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walsender'")
    out, err = p.communicate(timeout=60)
    assert p.returncode == vault.FAILED, (out, err)
    assert b"connection" in err, err
    assert len(fresh.snapshots("main")) == 1
    assert c.sql("select count(*) from pg_replication_slots") == "0"
    fresh.run("check", "--read-data")


def test_a_setting_for_any_synchronous_standby_does_not_wait_for_us(clusters, fresh):
    """With '*' every receiver that reports positions would hold up commits, or vouch for them."""
    c = clusters("sync", conf="synchronous_standby_names = ''")
    c.sql("create table t (n int)")
    add(fresh, "main", c)
    c.sql("alter system set synchronous_standby_names = '*'")
    c.sql("select pg_reload_conf()")
    p = fresh.popen("backup", "main", "--over", "replication", "--spread-checkpoint")
    try:
        assert pg.wait_for(lambda: c.sql(
            "select count(*) from pg_stat_activity where backend_type = 'walsender'") == "2"
            or p.poll() is not None)
        assert c.sql("select count(*) from pg_stat_replication where sync_state in "
                     "('sync', 'quorum') and flush_lsn is not null") == "0"
    finally:
        c.sql("alter system reset synchronous_standby_names")
        c.sql("select pg_reload_conf()")
        p.communicate(timeout=400)
    assert p.returncode == vault.DONE
