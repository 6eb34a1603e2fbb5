"""The command line: verbs, help, manual, completion, configuration, keys, ordinary users."""
import os
import re
import shutil
import subprocess

import pytest

import pg
import vault

VERBS = ("init", "source add", "source list", "source show", "source remove", "backup",
         "snapshots", "ls", "mount", "umount", "restore", "check", "stats", "index rebuild",
         "key list", "key add", "key remove", "key change", "version", "help")


@pytest.fixture(scope="module")
def nothing(base):
    path = os.path.join(base, "nothing")
    os.mkdir(path, 0o755)
    return vault.Pastfs(path)


def test_every_verb_has_help_with_an_example(nothing):
    overview = nothing.run("help").out
    for verb in VERBS:
        assert verb in overview
        text = nothing.run(*verb.split(), "--help").out
        assert "usage: pastfs " + verb in text
        if verb not in ("version", "help", "key list", "source list"):
            assert re.search(r"example", text, re.I), text
    assert nothing.run("--help").out == overview


def test_version(nothing):
    with open(os.path.join(vault.TOP, "VERSION")) as f:
        version = f.read().strip()
    assert version in nothing.run("version").out
    assert version in nothing.run("--version").out
    assert nothing.run("version", "--json").json["version"] == version


@pytest.mark.parametrize("args", [
    [], ["nonsense"], ["backup"], ["backup", "a", "b"], ["snapshots", "main", "--nonsense"],
    ["restore", "main"], ["source"], ["source", "add"], ["source", "nonsense"], ["key", "remove"],
    ["backup", "main", "--over", "pigeon"], ["source", "add", "../x", "--pg", ""],
    ["restore", "main@latest"], ["mount"], ["umount"]])
def test_usage_errors(nothing, args):
    r = nothing.run(*args, status=vault.USAGE)
    assert r.err.strip() and not r.out.strip(), str(r)


def test_the_manual_lists_every_verb_and_status():
    path = os.path.join(vault.TOP, "docs", "pastfs.1")
    with open(path) as f:
        text = f.read().replace("\\-", "-")
    for verb in VERBS:
        assert re.search(r"\b%s\b" % verb.replace(" ", r"[ \\fBIRP]+"), text), verb
    for status in range(8):
        assert re.search(r"^\.(TP|B|It|IP).*\b%d\b|^\.?B? ?%d\b" % (status, status), text, re.M), status
    for name in ("PASTFS_REPO", "PASTFS_PASSPHRASE", "PASTFS_PASSPHRASE_FILE", "PASTFS_KEY_FILE",
                 "/etc/pastfs/pastfs.conf", "archive"):
        assert name in text, name
    for tool in (["man", "--warnings", "-l"], ["groff", "-man", "-ww", "-Tutf8"]):
        if shutil.which(tool[0]):
            p = subprocess.run(tool + [path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "MANPAGER": "cat", "LC_ALL": "C.UTF-8"}, text=True)
            assert p.returncode == 0 and not p.stderr.strip(), p.stderr
            break


def complete(words):
    """What the completion offers for the last of `words`."""
    script = ("source %s/tools/pastfs.bash-completion\n"
              "COMP_WORDS=(%s); COMP_CWORD=%d; COMP_LINE='%s'; COMP_POINT=${#COMP_LINE}\n"
              "f=$(complete -p pastfs | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')\n"
              "\"$f\" pastfs '%s' '%s'; printf '%%s\\n' \"${COMPREPLY[@]}\"\n"
              % (vault.TOP, " ".join("'%s'" % w for w in words), len(words) - 1, " ".join(words),
                 words[-1], words[-2]))
    p = subprocess.run(["bash", "--norc", "-c", script], stdout=subprocess.PIPE, text=True,
                       stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                       env={**os.environ, "PATH": os.path.dirname(vault.BIN) + ":" +
                            os.environ["PATH"]})
    assert not p.stderr.strip(), p.stderr
    return {w.strip() for w in p.stdout.splitlines()}


def test_completion():
    subprocess.run(["bash", "-n", vault.TOP + "/tools/pastfs.bash-completion"], check=True)
    first = complete(["pastfs", ""])
    assert {v.split()[0] for v in VERBS} <= first
    assert complete(["pastfs", "sna"]) == {"snapshots"}
    assert {"add", "list", "show", "remove"} <= complete(["pastfs", "source", ""])
    assert "--over" in complete(["pastfs", "backup", "--ov"])


def test_make_install(tmp):
    subprocess.run(["make", "-s", "-C", vault.TOP, "-n", "install", "DESTDIR=" + tmp,
                    "PREFIX=/usr"], check=True, stdout=subprocess.DEVNULL)


def test_json_of_every_verb_that_prints(shared):
    for args in (["source", "list"], ["source", "show", "main"], ["snapshots", "main"],
                 ["snapshots"], ["ls", "main@latest"], ["ls", "main@latest:base"], ["stats"],
                 ["check"], ["key", "list"], ["version"]):
        r = shared.run(*args, "--json")
        assert r.json, args
        assert not r.err.strip(), str(r)
    report = shared.backup("main")
    assert report["snapshot"] if isinstance(report.get("snapshot"), str) else report


def test_stats_add_up(shared):
    stats = shared.run("stats", "--json").json
    text = shared.run("stats").out
    for word in ("deduplication", "compression", "delta", "all snapshots"):
        assert word in text.lower(), text
    numbers = str(stats)
    assert numbers.count("bytes") >= 3, stats


def test_ls(shared):
    top = shared.run("ls", "main@latest").out
    assert "PG_VERSION" in top and "base" in top
    assert "pg_control" in shared.run("ls", "main@latest:global").out
    shared.run("ls", "main@latest:none", status=vault.NOTFOUND)
    shared.run("ls", "other", status=vault.NOTFOUND)


def test_moments(tmp, main, cluster):
    main.backup("main")
    main.backup("main")
    one, two = main.snapshots("main")
    to = main.restore("main@" + one["name"], tmp + "/a")
    assert os.path.exists(to + "/PG_VERSION")
    main.restore("main@snap:" + one["id"][:12], tmp + "/b")
    conf = ("postgresql.auto.conf",)
    vault.assert_same(vault.tree(tmp + "/a", conf), vault.tree(tmp + "/b", conf))
    main.run("restore", "main@2001-01-01T00:00:00Z", tmp + "/c", status=vault.NOTFOUND)
    r = main.run("restore", "main@2001-01-01T00:00:00", tmp + "/c", status=None)
    assert r.status in (vault.USAGE, vault.NOTFOUND) and "zone" in r.err
    r = main.run("restore", "main@snap:ffffffffffff", tmp + "/c", status=vault.NOTFOUND)
    assert not os.path.exists(tmp + "/c")
    r = main.run("restore", "nobody@latest", tmp + "/c", status=vault.NOTFOUND)
    assert "nobody" in r.err


def test_restore_refuses_a_directory_with_files(tmp, shared):
    os.mkdir(tmp + "/r")
    with open(tmp + "/r/mine", "w") as f:
        f.write("mine")
    r = shared.run("restore", "main@latest", tmp + "/r", status=None)
    assert r.status not in (vault.DONE, None) and "--force" in r.err
    assert os.listdir(tmp + "/r") == ["mine"]
    shared.run("restore", "main@latest", tmp + "/r", "--force")
    assert open(tmp + "/r/mine").read() == "mine" and os.path.exists(tmp + "/r/PG_VERSION")


def test_sources(tmp, fresh, cluster):
    fresh.run("source", "add", "main", "--pg", cluster.conninfo())
    r = fresh.run("source", "add", "main", "--pg", cluster.conninfo(), status=None)
    assert r.status != vault.DONE and "main" in r.err
    assert "main" in fresh.run("source", "list").out
    assert cluster.run_dir in fresh.run("source", "show", "main").out
    fresh.backup("main")
    fresh.run("source", "remove", "main")
    assert "main" not in fresh.run("source", "list", "--json").out or \
        "removed" in fresh.run("source", "list", "--json").out
    fresh.run("backup", "main", status=vault.NOTFOUND)
    fresh.run("check")


def test_keys(tmp, fresh):
    new = tmp + "/new"
    with open(new, "w") as f:
        f.write("another passphrase\n")
    os.chmod(new, 0o600)
    fresh.run("key", "generate", tmp + "/file.key")
    fresh.run("key", "add", "--label", "file", "--new-key-file", tmp + "/file.key")
    fresh.run("key", "add", "--label", "second", "--new-passphrase-file", new)
    assert fresh.run("key", "list").out.count("\n") >= 3
    fresh.run("check", "--key-file", tmp + "/file.key")
    fresh.run("check", "--passphrase-file", new)
    with open(tmp + "/bad", "w") as f:
        f.write("bad\n")
    os.chmod(tmp + "/bad", 0o600)
    r = fresh.run("check", "--passphrase-file", tmp + "/bad", status=vault.WRONGKEY)
    assert "3" in r.err, str(r)
    fresh.run("key", "remove", "second")
    fresh.run("check", "--passphrase-file", new, status=vault.WRONGKEY)
    fresh.run("key", "change", "--new-passphrase-file", new)
    fresh.run("check", status=vault.WRONGKEY)
    fresh.run("check", "--passphrase-file", new)
    fresh.run("key", "remove", "file", "--passphrase-file", new)
    slots = fresh.run("key", "list", "--json").json
    slots = slots["slots"] if isinstance(slots, dict) else slots
    assert len(slots) == 1
    r = fresh.run("key", "remove", slots[0]["id"], "--passphrase-file", new, status=None)
    assert r.status == vault.USAGE and "last" in r.err


def test_where_settings_come_from(tmp, shared):
    """Options before the environment before the user's file."""
    env = {k: v for k, v in shared.env.items() if not k.startswith("PASTFS_")}
    home = tmp + "/home"
    os.makedirs(home + "/.config/pastfs")

    def run(*args, **more):
        return subprocess.run([vault.BIN, *args], env={**env, "HOME": home, **more}, cwd="/",
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60 * vault.SLOW)

    assert run("snapshots", "main").returncode == vault.USAGE
    with open(shared.passfile) as f:
        passphrase = f.read().strip()
    assert run("snapshots", "main", PASTFS_REPO=shared.repo,
               PASTFS_PASSPHRASE=passphrase).returncode == 0
    assert run("snapshots", "main", "--repo", shared.repo, "--passphrase-file",
               shared.passfile).returncode == 0
    with open(home + "/.config/pastfs/pastfs.conf", "w") as f:
        f.write("# settings\nrepo = %s\npassphrase-file = %s\n" % (shared.repo, shared.passfile))
    os.chmod(home + "/.config/pastfs/pastfs.conf", 0o600)
    assert run("snapshots", "main").returncode == 0
    assert run("snapshots", "main", PASTFS_REPO=tmp + "/none").returncode == vault.NOTFOUND
    assert run("snapshots", "main", "--repo", shared.repo,
               PASTFS_REPO=tmp + "/none").returncode == 0
    with open(home + "/.config/pastfs/pastfs.conf", "a") as f:
        f.write("nonsense here\n")
    r = run("snapshots", "main")
    assert r.returncode == vault.USAGE and "pastfs.conf:4" in r.stderr.replace(" line ", ":")


# In a mount namespace of its own /dev/fuse is open to all, as Debian has it; some machines keep it
# to root.  Everything after that runs without any privilege.
USER_MOUNTS = r"""
set -eu
mount --make-rprivate /
mknod "$HOME/fuse" c 10 229
chmod 666 "$HOME/fuse"
mount --bind "$HOME/fuse" /dev/fuse
exec setpriv --reuid=65534 --regid=65534 --clear-groups bash -eu -c '
trap "\"$PASTFS\" umount \"$HOME/mnt\" || fusermount3 -uz \"$HOME/mnt\"" EXIT
mkdir "$HOME/mnt"
"$PASTFS" mount "$HOME/mnt" --owner nobody
test "$(id -u)" = 65534
grep -q " $HOME/mnt fuse.pastfs ro," /proc/mounts
cp -a "$HOME/mnt/main/snapshots/latest" "$HOME/copy"
"$VERIFYBACKUP" "$HOME/mnt/main/snapshots/latest"
if "$PASTFS" mount "$HOME/mnt" 2>/dev/null; then exit 1; fi
'
"""


@pytest.mark.root
def test_an_ordinary_user(tmp, cluster):
    """init, backup over replication, restore and check without any privilege."""
    home = os.path.join(tmp, "user")
    os.mkdir(home)
    user = (65534, 65534)
    p = vault.Pastfs(home, user=user).init()
    p.run("source", "add", "main", "--pg", cluster.conninfo())
    p.backup("main")
    p.backup("main")
    assert len(p.snapshots("main")) == 2
    as_user = {"user": user[0], "group": user[1], "extra_groups": []}
    p.restore("main@latest", home + "/restored")
    assert os.stat(home + "/restored/PG_VERSION").st_uid == user[0]
    p.run("check", "--read-data")
    # An ordinary user starts what he restored.
    server = pg.Server(home + "/restored", home, "")
    options = "-p %d -k %s -c listen_addresses= -c fsync=off" % (pg.free_port(), home)
    pg_ctl = [pg.BIN + "/pg_ctl", "-w", "-D", server.data, "-l", home + "/log"]
    subprocess.run(pg_ctl + ["-o", options, "start"], check=True, timeout=60, cwd="/",
                   stdout=subprocess.DEVNULL, env=pg.server_env(), **as_user)
    subprocess.run(pg_ctl + ["-m", "immediate", "stop"], check=True, timeout=60, cwd="/",
                   stdout=subprocess.DEVNULL, env=pg.server_env(), **as_user)


@pytest.mark.root
@pytest.mark.fuse
def test_an_ordinary_user_mounts(tmp, cluster):
    """Through fusermount3; a copy belongs to who made it."""
    base = os.path.join(tmp, "user")
    os.mkdir(base)
    user = (65534, 65534)
    p = vault.Pastfs(base, user=user).init()
    p.run("source", "add", "main", "--pg", cluster.conninfo())
    p.backup("main")
    subprocess.run(["unshare", "-m", "bash", "-c", USER_MOUNTS],
                   check=True, timeout=60 * vault.SLOW,
                   env={**p.env, "PASTFS": vault.BIN, "VERIFYBACKUP": pg.BIN + "/pg_verifybackup"})
    assert os.stat(p.env["HOME"] + "/copy/PG_VERSION").st_uid == user[0]


def test_secrets_are_not_shown(shared, cluster):
    """Neither the process list nor any output has the passphrase."""
    with open(shared.passfile) as f:
        passphrase = f.read().strip()
    for args in (["source", "show", "main"], ["key", "list"], ["stats"], ["snapshots", "main"]):
        r = shared.run(*args)
        assert passphrase not in r.out + r.err
    for d, _, names in os.walk(shared.repo):
        for n in names:
            with open(os.path.join(d, n), "rb") as f:
                data = f.read()
            assert passphrase.encode() not in data and b"pgbench_accounts" not in data
