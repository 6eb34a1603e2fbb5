/*
 * describe: sources and snapshots as JSON and as text, the same from every verb.
 */
#ifndef TOOLS_DESCRIBE_H
#define TOOLS_DESCRIBE_H

struct json;
struct pg_part;
struct snapshot;
struct source;

/* New objects, to be taken by json_add() or printed; NULL if memory ran out. */
struct json *describe_source_json(const struct source *s);
struct json *describe_snapshot_json(const struct snapshot *s);

/* Add "bad_page_list" to a snapshot's object: each bad page that the record keeps. */
void describe_bad_pages_json(struct json *object, const struct snapshot *s);

/* Everything about one, in lines "name: value" on standard output. */
void describe_source(const struct source *s);
void describe_snapshot(const struct snapshot *s);

/* The PostgreSQL part, or NULL. */
const struct pg_part *describe_pg(const struct snapshot *s);
/* "local" or "replication". */
const char *describe_method(const struct pg_part *pg);

#endif
