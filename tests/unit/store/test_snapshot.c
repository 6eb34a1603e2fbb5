/* Snapshots: the record, listing, and what a person may call a moment. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/backend.h"
#include "store/base/bytes.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/sys.h"
#include "store/base/utc.h"
#include "store/repo.h"
#include "store/sealed.h"
#include "store/snapshot.h"
#include "tests/support/store_fixture.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY  INT64_C(86400000000)
#define BASE INT64_C(1795140202000000) /* 2026-11-20T02:03:22Z */

static char *
dup_text(const char *s)
{
	char *p = strdup(s);

	assert_non_null(p);
	return p;
}

static void
fill_owner(struct snapshot_owner **list, size_t *n, uint32_t id, const char *name)
{
	*list = calloc(1, sizeof(**list));
	assert_non_null(*list);
	(*list)[0].id = id;
	(*list)[0].name = dup_text(name);
	*n = 1;
}

static void
fill_pg(struct pg_part *pg)
{
	*pg = (struct pg_part){
		.system_identifier = UINT64_C(0xfedcba9876543210),
		.server_version = 150018,
		.timeline = 3,
		.start_lsn = UINT64_C(0x1000000028),
		.stop_lsn = UINT64_C(0x1000000138),
		.checkpoint_lsn = UINT64_C(0x1000000060),
		.wal_segment_bytes = 16 << 20,
		.data_checksums = true,
		.from_standby = true,
		.method = PG_METHOD_REPLICATION,
		.pages_checked = 12345,
		.bad_pages_total = 20001,
	};
	pg->nbad_pages = 2;
	pg->bad_pages = calloc(2, sizeof(*pg->bad_pages));
	assert_non_null(pg->bad_pages);
	pg->bad_pages[0] = (struct bad_page){ dup_text("base/5/1259"), 7, 0xabcd, 0x1234 };
	pg->bad_pages[1] = (struct bad_page){ dup_text("base/5/1259.1"), 131073, 0, 0xffff };
	pg->ntablespaces = 1;
	pg->tablespaces = calloc(1, sizeof(*pg->tablespaces));
	assert_non_null(pg->tablespaces);
	pg->tablespaces[0].oid = 16385;
	pg->tablespaces[0].location = dup_text("/srv/fast disk");
}

static void
fill_part(struct snapshot_part *p)
{
	p->kind = PART_PG;
	p->name = dup_text("");
	p->root.type = TREE_DIR;
	p->root.name = dup_text("");
	p->root.mode = 0700;
	p->root.uid = 105;
	p->root.mtime_s = 1795140202;
	p->root.content.chunking = CHUNKING_RECORDS;
	p->root.content.leaf = calloc(1, sizeof(*p->root.content.leaf));
	assert_non_null(p->root.content.leaf);
	fill_pg(&p->pg);
}

/* A record with every field set. */
static struct snapshot
sample(int64_t time_us)
{
	struct snapshot s = {
		.source_id = { 8, 7, 6, 5, 4, 3, 2, 1 },
		.parent_id = { 0xaa, 0xbb },
		.time_us = time_us,
		.started_us = time_us - 100,
		.finished_us = time_us + 5000000,
		.files = 1,
		.logical_bytes = 2,
		.read_bytes = 3,
		.new_bytes = 4,
		.stored_bytes = 5,
		.delta_bytes = 6,
		.delta_stored_bytes = 7,
		.warnings = 8,
		.full_read = true,
	};
	char name[UTC_TEXT_MAX];

	utc_format(time_us, name);
	s.name = dup_text(name);
	s.source_name = dup_text("main");
	s.host = dup_text("db1.example");
	s.pastfs_version = dup_text("0.1.0");
	s.label = dup_text("before the upgrade");
	fill_owner(&s.users, &s.nusers, 105, "postgres");
	fill_owner(&s.groups, &s.ngroups, 113, "postgres");
	s.nparts = 1;
	s.parts = calloc(1, sizeof(*s.parts));
	assert_non_null(s.parts);
	fill_part(&s.parts[0]);
	snapshot_make_id(&s);
	return s;
}

static void
assert_same_pg(const struct pg_part *a, const struct pg_part *b)
{
	assert_true(a->system_identifier == b->system_identifier);
	assert_int_equal(a->server_version, b->server_version);
	assert_int_equal(a->timeline, b->timeline);
	assert_true(a->start_lsn == b->start_lsn && a->stop_lsn == b->stop_lsn);
	assert_true(a->checkpoint_lsn == b->checkpoint_lsn);
	assert_int_equal(a->wal_segment_bytes, b->wal_segment_bytes);
	assert_int_equal(a->data_checksums, b->data_checksums);
	assert_int_equal(a->from_standby, b->from_standby);
	assert_int_equal(a->method, b->method);
	assert_int_equal(a->pages_checked, b->pages_checked);
	assert_int_equal(a->bad_pages_total, b->bad_pages_total);
	assert_int_equal(a->nbad_pages, b->nbad_pages);
	for (size_t i = 0; i < a->nbad_pages; i++) {
		assert_string_equal(a->bad_pages[i].path, b->bad_pages[i].path);
		assert_int_equal(a->bad_pages[i].block, b->bad_pages[i].block);
		assert_int_equal(a->bad_pages[i].stored_checksum, b->bad_pages[i].stored_checksum);
		assert_int_equal(
		    a->bad_pages[i].computed_checksum, b->bad_pages[i].computed_checksum);
	}
	assert_int_equal(a->ntablespaces, b->ntablespaces);
	for (size_t i = 0; i < a->ntablespaces; i++) {
		assert_int_equal(a->tablespaces[i].oid, b->tablespaces[i].oid);
		assert_string_equal(a->tablespaces[i].location, b->tablespaces[i].location);
	}
}

static void
assert_same(const struct snapshot *a, const struct snapshot *b)
{
	assert_memory_equal(a->id, b->id, SNAPSHOT_ID_LEN);
	assert_memory_equal(a->source_id, b->source_id, SOURCE_ID_LEN);
	assert_memory_equal(a->parent_id, b->parent_id, SNAPSHOT_ID_LEN);
	assert_string_equal(a->source_name, b->source_name);
	assert_string_equal(a->name, b->name);
	assert_true(a->time_us == b->time_us && a->started_us == b->started_us &&
		    a->finished_us == b->finished_us);
	assert_string_equal(a->host, b->host);
	assert_string_equal(a->pastfs_version, b->pastfs_version);
	assert_string_equal(a->label, b->label);
	assert_int_equal(a->files, b->files);
	assert_int_equal(a->logical_bytes, b->logical_bytes);
	assert_int_equal(a->read_bytes, b->read_bytes);
	assert_int_equal(a->new_bytes, b->new_bytes);
	assert_int_equal(a->stored_bytes, b->stored_bytes);
	assert_int_equal(a->delta_bytes, b->delta_bytes);
	assert_int_equal(a->delta_stored_bytes, b->delta_stored_bytes);
	assert_int_equal(a->warnings, b->warnings);
	assert_int_equal(a->full_read, b->full_read);
	assert_int_equal(a->nusers, b->nusers);
	assert_int_equal(a->users[0].id, b->users[0].id);
	assert_string_equal(a->users[0].name, b->users[0].name);
	assert_int_equal(a->ngroups, b->ngroups);
	assert_int_equal(a->groups[0].id, b->groups[0].id);
	assert_string_equal(a->groups[0].name, b->groups[0].name);
	assert_int_equal(a->nparts, b->nparts);
	for (size_t i = 0; i < a->nparts; i++) {
		assert_int_equal(a->parts[i].kind, b->parts[i].kind);
		assert_string_equal(a->parts[i].name, b->parts[i].name);
		assert_int_equal(a->parts[i].root.type, TREE_DIR);
		assert_int_equal(a->parts[i].root.mode, b->parts[i].root.mode);
		assert_int_equal(a->parts[i].root.uid, b->parts[i].root.uid);
		assert_same_pg(&a->parts[i].pg, &b->parts[i].pg);
	}
}

static void
test_round_trip(void **state)
{
	struct snapshot want = sample(BASE + 500000), got;
	struct bytes b;

	(void)state;
	/* Two parts, as a source of several would have. */
	want.parts = realloc(want.parts, 2 * sizeof(*want.parts));
	assert_non_null(want.parts);
	memset(&want.parts[1], 0, sizeof(want.parts[1]));
	fill_part(&want.parts[1]);
	free(want.parts[1].name);
	want.parts[1].name = dup_text("second");
	want.nparts = 2;
	bytes_init(&b);
	assert_int_equal(snapshot_encode(&b, &want), 0);
	assert_int_equal(snapshot_decode(&got, b.data, b.len), 0);
	assert_same(&want, &got);
	snapshot_release(&want);
	snapshot_release(&got);
	bytes_release(&b);
}

static void
test_truncation_and_flips(void **state)
{
	struct snapshot s = sample(BASE), got;
	struct bytes b;
	size_t whole;

	(void)state;
	bytes_init(&b);
	assert_int_equal(snapshot_encode(&b, &s), 0);
	whole = b.len;
	for (b.len = 0; b.len < whole; b.len++) {
		/* In memory of just that size, so that a read past its end is seen. */
		uint8_t *exact = malloc(b.len ? b.len : 1);

		assert_non_null(exact);
		memcpy(exact, b.data, b.len);
		assert_int_equal(snapshot_decode(&got, exact, b.len), ERR_DAMAGED);
		free(exact);
	}
	/* The envelope finds flips; here they must only never break anything. */
	for (size_t bit = 0; bit < 8 * whole; bit++) {
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (snapshot_decode(&got, b.data, b.len) == 0)
			snapshot_release(&got);
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	snapshot_release(&s);
	bytes_release(&b);
}

static void
assert_refused(struct snapshot *s, const char *why)
{
	struct bytes b;

	bytes_init(&b);
	assert_int_equal(snapshot_encode(&b, s), ERR_USAGE);
	assert_non_null(strstr(err_msg(), why));
	bytes_release(&b);
}

static void
test_bounds(void **state)
{
	struct snapshot s = sample(BASE);
	size_t n;

	(void)state;
	free(s.label);
	s.label = malloc(5000);
	assert_non_null(s.label);
	memset(s.label, 'l', 4999);
	s.label[4999] = '\0';
	assert_refused(&s, "label");
	s.label[4096] = '\0';
	s.name[0] = '/';
	assert_refused(&s, "name");
	s.name[0] = '2';
	n = s.parts[0].pg.nbad_pages;
	s.parts[0].pg.nbad_pages = SNAPSHOT_BAD_PAGES_MAX + 1;
	assert_refused(&s, "bad pages");
	s.parts[0].pg.nbad_pages = n;
	s.parts[0].pg.method = 0;
	assert_refused(&s, "method");
	s.parts[0].pg.method = PG_METHOD_LOCAL;
	n = s.nparts;
	s.nparts = 0;
	assert_refused(&s, "part");
	s.nparts = n;
	snapshot_release(&s);
}

/* A part of a kind that a later version brings is not shown half: the whole record is refused. */
static void
test_newer_part(void **state)
{
	struct snapshot s = sample(BASE), got;
	static const uint8_t kind[] = { 0x01, 0x80, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0 };
	struct bytes b;
	uint8_t *last = NULL;

	(void)state;
	bytes_init(&b);
	assert_int_equal(snapshot_encode(&b, &s), 0);
	for (size_t i = 0; i + sizeof(kind) <= b.len; i++)
		if (memcmp(b.data + i, kind, sizeof(kind)) == 0)
			last = b.data + i;
	assert_non_null(last);
	last[6] = 2;
	assert_int_equal(snapshot_decode(&got, b.data, b.len), ERR_UNSUPPORTED);
	assert_non_null(strstr(err_msg(), "upgrade pastfs"));
	snapshot_release(&s);
	bytes_release(&b);
}

static void
test_ids_sort_by_time(void **state)
{
	struct snapshot a = { .started_us = BASE }, b = { .started_us = BASE + 1 };
	struct snapshot c = { .started_us = BASE };

	(void)state;
	snapshot_make_id(&a);
	snapshot_make_id(&b);
	snapshot_make_id(&c);
	assert_true(memcmp(a.id, b.id, SNAPSHOT_ID_LEN) < 0);
	assert_true(memcmp(c.id, b.id, SNAPSHOT_ID_LEN) < 0);
	assert_memory_not_equal(a.id, c.id, SNAPSHOT_ID_LEN);
}

static void
test_record_faults(void **state)
{
	struct snapshot s = sample(BASE), got;
	bool happened = true;
	struct bytes b;
	uint64_t n;
	int rc = 0;

	(void)state;
	for (n = 1; happened && n < 1000; n++) {
		bytes_init(&b);
		sys_fault_arm(n, ENOMEM);
		rc = snapshot_encode(&b, &s);
		if (rc == 0)
			rc = snapshot_decode(&got, b.data, b.len);
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (rc == 0) {
			assert_same(&s, &got);
			snapshot_release(&got);
		} else {
			assert_true(happened);
		}
		bytes_release(&b);
	}
	assert_false(happened);
	assert_int_equal(rc, 0);
	assert_true(n > 10);
	snapshot_release(&s);
}

/* ---- in a repository ---- */

struct fixture {
	struct store_fixture repo;
	struct repo_reader *reader;
	struct source source;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	if (!f)
		return -1;
	store_fixture_make(&f->repo);
	memcpy(f->source.id, (uint8_t[]){ 8, 7, 6, 5, 4, 3, 2, 1 }, SOURCE_ID_LEN);
	strcpy(f->source.name, "main");
	return repo_reader_open(&f->reader, &f->repo.opts);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	repo_reader_close(f->reader);
	store_fixture_remove(&f->repo);
	free(f);
	return 0;
}

/* Commit a snapshot of `time_us`; its id as text goes to `hex`, unless that is NULL. */
static void
commit(struct fixture *f, int64_t time_us, char *hex)
{
	struct snapshot s = sample(time_us);
	const struct repo_writer_opts usual = { 0 };
	struct repo_writer *w;

	assert_int_equal(repo_writer_open(&w, &f->repo.opts, &usual), 0);
	assert_int_equal(snapshot_commit(w, &s), 0);
	repo_writer_close(w);
	if (hex)
		hex_encode(hex, s.id, SNAPSHOT_ID_LEN);
	snapshot_release(&s);
}

static int
resolve(struct fixture *f, const char *when, int64_t *time_us)
{
	struct snapshot s;
	int rc = snapshot_resolve(f->reader, &f->source, when, UTC_NO_OFFSET, &s);

	*time_us = s.time_us;
	snapshot_release(&s);
	return rc;
}

static void
test_list(void **state)
{
	struct fixture *f = *state;
	struct snapshot *list;
	size_t n, damaged;
	uint8_t other[SOURCE_ID_LEN] = { 1 };

	assert_int_equal(snapshot_list(f->reader, f->source.id, &list, &n, NULL), 0);
	assert_int_equal(n, 0);
	snapshot_list_free(list, n);
	commit(f, BASE + 2 * DAY, NULL);
	commit(f, BASE, NULL);
	commit(f, BASE + DAY, NULL);
	assert_int_equal(snapshot_list(f->reader, f->source.id, &list, &n, &damaged), 0);
	assert_int_equal(n, 3);
	assert_int_equal(damaged, 0);
	for (size_t i = 0; i < 3; i++)
		assert_true(list[i].time_us == BASE + (int64_t)i * DAY);
	snapshot_list_free(list, n);
	assert_int_equal(snapshot_list(f->reader, other, &list, &n, NULL), 0);
	assert_int_equal(n, 0);
	snapshot_list_free(list, n);
}

static void
test_resolve(void **state)
{
	struct fixture *f = *state;
	char hex[3][2 * SNAPSHOT_ID_LEN + 1], when[128];
	int64_t t;

	assert_int_equal(resolve(f, "latest", &t), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "pastfs backup main"));
	assert_int_equal(resolve(f, "2026-11-20T02:03:22Z", &t), ERR_NOTFOUND);
	commit(f, BASE, hex[0]);
	commit(f, BASE + DAY + 250000, hex[1]);
	commit(f, BASE + 2 * DAY, hex[2]);

	assert_int_equal(resolve(f, "latest", &t), 0);
	assert_true(t == BASE + 2 * DAY);
	for (int i = 0; i < 3; i++) {
		struct snapshot s;

		snprintf(when, sizeof(when), "snap:%s", hex[i]);
		assert_int_equal(
		    snapshot_resolve(f->reader, &f->source, when, UTC_NO_OFFSET, &s), 0);
		snprintf(when, sizeof(when), "%s", s.name);
		snapshot_release(&s);
		assert_int_equal(resolve(f, when, &t), 0);
	}
	snprintf(when, sizeof(when), "snap:%.18s", hex[1]);
	assert_int_equal(resolve(f, when, &t), 0);
	assert_true(t == BASE + DAY + 250000);

	/* The same instant in other words. */
	assert_int_equal(resolve(f, "2026-11-20T03:03:22+01:00", &t), 0);
	assert_true(t == BASE);
	assert_int_equal(resolve(f, "2026-11-20 02:03:22.000Z", &t), 0);
	/* A whole second stands for the one snapshot in it. */
	assert_int_equal(resolve(f, "2026-11-21T02:03:22Z", &t), 0);
	assert_true(t == BASE + DAY + 250000);
	assert_int_equal(resolve(f, "2026-11-21T02:03:22.1Z", &t), ERR_NOTFOUND);
}

static void
test_resolve_zone(void **state)
{
	struct fixture *f = *state;
	struct snapshot s;
	int64_t t;

	commit(f, BASE, NULL);
	assert_int_equal(resolve(f, "2026-11-20T02:03:22", &t), ERR_USAGE);
	assert_int_equal(
	    snapshot_resolve(f->reader, &f->source, "2026-11-20T03:03:22", 3600, &s), 0);
	snapshot_release(&s);
}

static void
test_resolve_refusals(void **state)
{
	static const char *const bad[] = { "", "lsn:0/3000060", "xid:7431", "name:before_deploy",
		"2 hours ago", "newest", "snap:", "snap:abc", "snap:xyzw", "snap:ABCDEF",
		"2026-11-20", "2026-13-20T02:03:22Z", "snap:000000000000000000000000000000000" };
	struct fixture *f = *state;
	int64_t t;

	commit(f, BASE, NULL);
	commit(f, BASE + DAY, NULL);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(resolve(f, bad[i], &t), ERR_USAGE);
	assert_int_equal(resolve(f, "lsn:0/3000060", &t), ERR_USAGE);
	assert_non_null(strstr(err_msg(), "latest, snap:ID, or a snapshot's time"));

	assert_int_equal(resolve(f, "2026-11-20T12:00:00Z", &t), ERR_NOTFOUND);
	assert_non_null(
	    strstr(err_msg(), "the nearest are 2026-11-20T02:03:22Z and 2026-11-21T02:03:22Z"));
	assert_int_equal(resolve(f, "2020-01-01T00:00:00Z", &t), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "the first is 2026-11-20T02:03:22Z"));
	assert_int_equal(resolve(f, "2030-01-01T00:00:00Z", &t), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "the last is 2026-11-21T02:03:22Z"));
	assert_int_equal(resolve(f, "snap:ffffffff", &t), ERR_NOTFOUND);
	/* Both begin with the same digits of their times. */
	assert_int_equal(resolve(f, "snap:0006", &t), ERR_USAGE);
	assert_non_null(strstr(err_msg(), "more digits"));
}

/* Flip the last byte of a stored snapshot. */
static void
damage(struct fixture *f, const char *hex)
{
	char path[400];
	FILE *file;
	int c;

	snprintf(path, sizeof(path), "%s/snapshots/0807060504030201/%s", f->repo.url, hex);
	assert_int_equal(chmod(path, 0600), 0);
	file = fopen(path, "r+b");
	assert_non_null(file);
	assert_int_equal(fseek(file, -1, SEEK_END), 0);
	c = fgetc(file);
	assert_int_equal(fseek(file, -1, SEEK_END), 0);
	assert_int_not_equal(fputc(c ^ 1, file), EOF);
	fclose(file);
}

static void
test_damaged(void **state)
{
	struct fixture *f = *state;
	char hex[3][2 * SNAPSHOT_ID_LEN + 1], when[128];
	struct snapshot *list;
	size_t n, damaged;
	int64_t t;

	for (int i = 0; i < 3; i++)
		commit(f, BASE + i * DAY, hex[i]);
	damage(f, hex[0]);
	assert_int_equal(snapshot_list(f->reader, f->source.id, &list, &n, NULL), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), hex[0]));
	assert_int_equal(snapshot_list(f->reader, f->source.id, &list, &n, &damaged), 0);
	assert_int_equal(n, 2);
	assert_int_equal(damaged, 1);
	snapshot_list_free(list, n);
	assert_int_equal(resolve(f, "latest", &t), 0);
	assert_true(t == BASE + 2 * DAY);
	snprintf(when, sizeof(when), "snap:%s", hex[0]);
	assert_int_equal(resolve(f, when, &t), ERR_DAMAGED);
	assert_int_equal(resolve(f, "2026-11-20T02:03:22Z", &t), ERR_NOTFOUND);
	assert_non_null(strstr(err_msg(), "cannot be read"));

	/* An older one must never pass for the latest in silence. */
	damage(f, hex[2]);
	assert_int_equal(resolve(f, "latest", &t), ERR_DAMAGED);
	assert_non_null(strstr(err_msg(), "2026-11-21T02:03:22Z"));
	assert_int_equal(resolve(f, "2026-11-21T02:03:22Z", &t), 0);
	damage(f, hex[1]);
	assert_int_equal(resolve(f, "latest", &t), ERR_DAMAGED);
}

static void
test_list_faults(void **state)
{
	struct fixture *f = *state;
	struct snapshot *list, got;
	size_t count, damaged;
	bool happened = true;
	uint64_t n;
	int rc = 0;

	commit(f, BASE, NULL);
	commit(f, BASE + DAY, NULL);
	for (n = 1; happened && n < 5000; n++) {
		sys_fault_arm(n, n % 2 ? ENOMEM : EIO);
		rc = snapshot_list(f->reader, f->source.id, &list, &count, &damaged);
		if (rc == 0) {
			assert_int_equal(count + damaged, 2);
			snapshot_list_free(list, count);
			rc = snapshot_resolve(f->reader, &f->source, "latest", UTC_NO_OFFSET, &got);
			/* Whatever failed: the answer is the right one or an error. */
			if (rc == 0)
				assert_true(got.time_us == BASE + DAY);
			snapshot_release(&got);
		}
		happened = sys_fault_happened();
		sys_fault_arm(0, 0);
		if (!happened)
			assert_int_equal(rc, 0);
	}
	assert_false(happened);
	assert_true(n > 10);
}

#define IN_REPO(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_truncation_and_flips),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_newer_part),
		cmocka_unit_test(test_ids_sort_by_time),
		cmocka_unit_test(test_record_faults),
		IN_REPO(test_list),
		IN_REPO(test_resolve),
		IN_REPO(test_resolve_zone),
		IN_REPO(test_resolve_refusals),
		IN_REPO(test_damaged),
		IN_REPO(test_list_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
