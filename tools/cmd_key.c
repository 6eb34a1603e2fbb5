#include "store/backend.h"
#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/json.h"
#include "store/base/utc.h"
#include "store/repo.h"
#include "store/secret.h"
#include "tools/cmd.h"
#include "tools/config.h"
#include "tools/credential_file.h"
#include "tools/open_repo.h"
#include "tools/output.h"

#include <stdio.h>
#include <string.h>

static const struct args_option new_key_options[] = {
	{ "label", 0, "TEXT", "what the slot is called" },
	{ "new-passphrase-file", 0, "FILE", "the new passphrase is in FILE" },
	{ "new-key-file", 0, "FILE", "the new key is in FILE" },
	{ NULL, 0, NULL, NULL },
};

static const char *
kind_name(enum keyslot_kind kind)
{
	return kind == KEYSLOT_KEYFILE ? "key file" : "passphrase";
}

/* ---- list ---- */

struct listing {
	struct json *json;
	struct table *table;
};

static int
list_slot(void *ctx, const struct keyslot_info *s)
{
	struct listing *l = ctx;
	char id[2 * KEYSLOT_ID_LEN + 1], created[UTC_TEXT_MAX];

	hex_encode(id, s->id, KEYSLOT_ID_LEN);
	utc_format(s->created_us - s->created_us % 1000000, created);
	if (l->json) {
		struct json *j = json_new_object();

		json_set_str(j, "id", id);
		json_set_str(j, "kind", s->kind == KEYSLOT_KEYFILE ? "key-file" : "passphrase");
		json_set_str(j, "label", s->label);
		json_set_str(j, "created", created);
		json_add(l->json, j);
		return 0;
	}
	table_cell(l->table, "%s", id);
	table_cell(l->table, "%s", kind_name(s->kind));
	table_cell(l->table, "%s", created);
	table_cell(l->table, "%s", s->label);
	return 0;
}

static int
run_list(const struct args *a)
{
	struct listing l = { NULL, NULL };
	struct config *c;
	const char *url;
	int rc = config_load(&c, a, NULL);

	if (rc)
		return rc;
	if (args_given(a, "json"))
		l.json = json_new_array();
	else
		rc = table_new(&l.table, "ID|KIND|CREATED|LABEL");
	if (!rc)
		rc = config_repo(c, &url);
	if (!rc)
		rc = repo_keyslots(url, list_slot, &l);
	if (!rc && l.json)
		rc = output_json(l.json);
	else if (!rc)
		rc = table_print(l.table, stdout);
	else
		json_free(l.json);
	table_free(l.table);
	config_free(c);
	return rc;
}

const struct verb cmd_key_list = {
	.name = "key list",
	.summary = "list the key slots; needs no key",
	.groups = ARGS_OPEN | ARGS_JSON,
	.run = run_list,
};

/* ---- add, change ---- */

static int
new_credential(const struct args *a, struct credential *cred)
{
	const char *pass = args_value(a, "new-passphrase-file"),
		   *key = args_value(a, "new-key-file");
	bool open_to_others = false;
	int rc;

	if (pass && key)
		return err_set(ERR_USAGE, "give --new-passphrase-file or --new-key-file, not both");
	if (!pass && !key)
		return credential_file_ask(cred, "New passphrase", true);
	rc = credential_file_read(
	    cred, key ? KEYSLOT_KEYFILE : KEYSLOT_PASSPHRASE, key ? key : pass, &open_to_others);
	if (!rc && open_to_others)
		output_warn(
		    "others may read %s; run: chmod 600 %s", key ? key : pass, key ? key : pass);
	return rc;
}

static int
report_slot(const struct args *a, const struct keyslot_info *s, const char *removed)
{
	char id[2 * KEYSLOT_ID_LEN + 1];
	struct json *j;

	hex_encode(id, s->id, KEYSLOT_ID_LEN);
	if (args_given(a, "json")) {
		j = json_new_object();
		json_set_str(j, "id", id);
		json_set_str(j, "label", s->label);
		if (removed)
			json_set_str(j, "removed", removed);
		return output_json(j);
	}
	printf("key slot %s (%s", id, kind_name(s->kind));
	if (s->label[0])
		printf(", \"%s\"", s->label);
	printf(") is added%s%s%s\n", removed ? "; slot " : "", removed ? removed : "",
	    removed ? ", which opened the repository, is removed" : "");
	return 0;
}

struct label_search {
	const uint8_t *id;
	char label[KEYSLOT_LABEL_MAX + 1];
};

static int
copy_label(void *ctx, const struct keyslot_info *s)
{
	struct label_search *l = ctx;

	if (memcmp(s->id, l->id, KEYSLOT_ID_LEN) == 0)
		snprintf(l->label, sizeof(l->label), "%s", s->label);
	return 0;
}

/* The label asked for; else, when a slot is replaced, that slot's. */
static int
choose_label(const struct args *a, struct repo_admin *admin, bool change, struct label_search *l)
{
	const char *given = args_value(a, "label");

	if (given && strlen(given) > KEYSLOT_LABEL_MAX)
		return err_set(ERR_USAGE, "--label is longer than %d bytes", KEYSLOT_LABEL_MAX);
	if (given)
		snprintf(l->label, sizeof(l->label), "%s", given);
	if (given || !change)
		return 0;
	l->id = repo_admin_slot(admin);
	return repo_keyslots(
	    backend_url(repo_reader_backend(repo_admin_reader(admin))), copy_label, l);
}

/* Add a slot, and with `change` remove the one that opened the repository, in this order. */
static int
add_or_change(const struct args *a, bool change)
{
	char old_id[2 * KEYSLOT_ID_LEN + 1] = "";
	struct credential cred = { 0 };
	struct repo_admin *admin = NULL;
	struct label_search label = { 0 };
	struct keyslot_info slot;
	int rc = open_repo_admin(a, &admin);

	if (!rc)
		rc = choose_label(a, admin, change, &label);
	if (!rc)
		rc = new_credential(a, &cred);
	if (!rc)
		rc = repo_admin_key_add(admin, label.label, &cred, NULL, &slot);
	if (!rc && change) {
		hex_encode(old_id, repo_admin_slot(admin), KEYSLOT_ID_LEN);
		rc = repo_admin_key_remove(admin, repo_admin_slot(admin));
		if (rc)
			rc = err_prefix(rc, "the new key is added, but the old one stays");
	}
	if (!rc)
		rc = report_slot(a, &slot, change ? old_id : NULL);
	secret_free((void *)(uintptr_t)cred.data);
	repo_admin_close(admin);
	return rc;
}

static int
run_add(const struct args *a)
{
	return add_or_change(a, false);
}

static int
run_change(const struct args *a)
{
	return add_or_change(a, true);
}

const struct verb cmd_key_add = {
	.name = "key add",
	.summary = "add another passphrase or key file",
	.about = "Adds a key slot: one more passphrase or key file that opens the repository. The "
		 "usual options say what opens it now; without --new-passphrase-file or "
		 "--new-key-file the new passphrase is asked for on the terminal.",
	.options = new_key_options,
	.groups = ARGS_OPEN | ARGS_JSON,
	.examples = "pastfs key add --label safe --new-key-file /mnt/usb/vault.key",
	.run = run_add,
};

const struct verb cmd_key_change = {
	.name = "key change",
	.summary = "replace the passphrase or key file that is used now",
	.about =
	    "Adds a new key slot, then removes the one that opened the repository. Data is not "
	    "touched. Who knows the old passphrase and kept a copy of the repository's key "
	    "slots can still open that copy.",
	.options = new_key_options,
	.groups = ARGS_OPEN | ARGS_JSON,
	.examples = "pastfs key change --passphrase-file old --new-passphrase-file new",
	.run = run_change,
};

/* ---- remove ---- */

struct wanted {
	const char *text;
	int found;
	uint8_t id[KEYSLOT_ID_LEN];
};

static int
match_slot(void *ctx, const struct keyslot_info *s)
{
	struct wanted *w = ctx;
	char id[2 * KEYSLOT_ID_LEN + 1];

	hex_encode(id, s->id, KEYSLOT_ID_LEN);
	if (strncmp(id, w->text, strlen(w->text)) != 0 && strcmp(s->label, w->text) != 0)
		return 0;
	w->found++;
	memcpy(w->id, s->id, KEYSLOT_ID_LEN);
	return 0;
}

static int
find_slot(const char *url, struct wanted *w)
{
	int rc = *w->text ? repo_keyslots(url, match_slot, w) : 0;

	if (rc || w->found == 1)
		return rc;
	if (w->found == 0)
		return err_set(
		    ERR_NOTFOUND, "there is no key slot \"%s\"; see: pastfs key list", w->text);
	return err_set(ERR_USAGE, "%d key slots are called \"%s\"; give the id: pastfs key list",
	    w->found, w->text);
}

static int
run_remove(const struct args *a)
{
	struct wanted w = { .text = args_operand(a, 0) };
	char id[2 * KEYSLOT_ID_LEN + 1];
	struct repo_admin *admin = NULL;
	struct repo_opts opts;
	struct config *c;
	struct json *j;
	int rc = config_load(&c, a, NULL);

	if (rc)
		return rc;
	rc = config_repo_opts(c, CONFIG_ASK, &opts);
	if (!rc)
		rc = find_slot(opts.url, &w);
	if (!rc)
		rc = repo_admin_open(&admin, &opts);
	if (!rc)
		rc = repo_admin_key_remove(admin, w.id);
	if (rc)
		goto out;
	hex_encode(id, w.id, KEYSLOT_ID_LEN);
	if (args_given(a, "json")) {
		j = json_new_object();
		json_set_str(j, "removed", id);
		rc = output_json(j);
	} else {
		printf("key slot %s is removed\n", id);
	}
out:
	repo_admin_close(admin);
	config_free(c);
	return rc;
}

const struct verb cmd_key_remove = {
	.name = "key remove",
	.operands = "ID",
	.summary = "remove a key slot; the last one stays",
	.about = "Removes the key slot with this id, unique beginning of an id, or label. The last "
		 "slot cannot be removed.",
	.groups = ARGS_OPEN | ARGS_JSON,
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs key remove 3fa8",
	.run = run_remove,
};

/* ---- generate ---- */

static int
run_generate(const struct args *a)
{
	const char *path = args_operand(a, 0);
	int rc = credential_file_generate(path);

	if (!rc)
		output_notice("key file %s is made; keep a copy away from this machine", path);
	return rc;
}

const struct verb cmd_key_generate = {
	.name = "key generate",
	.operands = "FILE",
	.summary = "make a key file of random bytes",
	.about =
	    "Writes 64 random bytes to FILE, which must not exist, with mode 0600. Use it with "
	    "`pastfs init --key-file` or `pastfs key add --new-key-file`.",
	.min_operands = 1,
	.max_operands = 1,
	.examples = "pastfs key generate /root/vault.key",
	.run = run_generate,
};
