#include "store/base/err.h"
#include "store/base/hex.h"
#include "store/base/json.h"
#include "store/repo.h"
#include "store/repo_header.h"
#include "tools/cmd.h"
#include "tools/config.h"
#include "tools/output.h"

#include <stdio.h>

#define SHORT_PASSPHRASE 8

static const struct args_option options[] = {
	{ "label", 0, "TEXT", "the name of the first key slot (\"first\")" },
	{ NULL, 0, NULL, NULL },
};

static int
report(const struct args *a, const struct repo_opts *opts)
{
	char id[2 * REPO_ID_LEN + 1];
	struct repo_reader *r;
	struct json *j;
	int rc = repo_reader_open(&r, opts);

	if (rc)
		return err_prefix(rc, "the repository was made but cannot be opened");
	hex_encode(id, repo_reader_header(r)->repo_id, REPO_ID_LEN);
	repo_reader_close(r);
	if (args_given(a, "json")) {
		j = json_new_object();
		json_set_str(j, "id", id);
		json_set_str(j, "repo", opts->url);
		json_set_int(j, "format", REPO_FORMAT_VERSION);
		return output_json(j);
	}
	printf("repository %s is made, id %s\n", opts->url, id);
	return 0;
}

static void
remind(enum keyslot_kind kind)
{
	output_notice("\nKEEP THE %s.  Without it nothing in this repository can ever be read\n"
		      "again, by anybody.  Keep a copy away from this machine.",
	    kind == KEYSLOT_KEYFILE ? "KEY FILE" : "PASSPHRASE");
	output_notice("A second key is a second way in: pastfs key add --label LABEL");
}

static int
run(const struct args *a)
{
	struct repo_init_opts init = { .slot_label = args_value(a, "label") };
	struct repo_opts opts;
	struct config *c;
	int rc = config_load(&c, a, NULL);

	if (rc)
		return rc;
	if (args_operand(a, 0))
		rc = config_set_repo(c, args_operand(a, 0));
	if (!rc)
		rc = config_repo_opts(c, CONFIG_ASK_TWICE, &opts);
	if (rc)
		goto out;
	if (opts.cred->kind == KEYSLOT_PASSPHRASE && opts.cred->len < SHORT_PASSPHRASE)
		output_warn("a passphrase of %zu characters is soon guessed; "
			    "change it with `pastfs key change`",
		    opts.cred->len);
	rc = repo_init(&opts, &init);
	if (!rc)
		rc = report(a, &opts);
	if (!rc)
		remind(opts.cred->kind);
out:
	config_free(c);
	return rc;
}

const struct verb cmd_init = {
	.name = "init",
	.operands = "[URL]",
	.summary = "make a repository",
	.about =
	    "Makes a repository at URL, or where --repo, PASTFS_REPO or the configuration file "
	    "says: a directory that is absent or empty. Everything in it is encrypted; without "
	    "a passphrase or key file it asks for a new passphrase on the terminal.",
	.options = options,
	.groups = ARGS_OPEN | ARGS_JSON,
	.max_operands = 1,
	.examples = "pastfs init /srv/vault\n"
		    "pastfs init --passphrase-file /root/pass /srv/vault\n"
		    "pastfs key generate /root/vault.key && pastfs init --key-file /root/vault.key "
		    "/srv/vault",
	.run = run,
};
