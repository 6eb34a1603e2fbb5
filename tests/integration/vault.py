"""
pastfs as the tests use it: a runner bound to a repository and a key, mounts under a watchdog, and
comparison of directory trees.
"""
import contextlib
import glob
import hashlib
import json
import os
import signal
import stat
import subprocess
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.abspath(os.environ.get("PASTFS_BIN", os.path.join(TOP, "build/release/pastfs")))
SLOW = 4 if any(v in BIN for v in ("/asan/", "/tsan/", "/cov/")) else 1

DONE, FAILED, USAGE, NOTFOUND, WRONGKEY, DAMAGED, BUSY, NOSPACE = range(8)


class Result:
    def __init__(self, args, status, out, err):
        self.args, self.status, self.out, self.err = args, status, out, err

    @property
    def json(self):
        return json.loads(self.out)

    def __str__(self):
        return "pastfs %s: status %s\n%s%s" % (" ".join(self.args), self.status, self.out, self.err)


class Pastfs:
    """
    Runs pastfs on the repository `repo`, with the passphrase in the file base/pass and HOME and the
    cache in `base`, so that nothing of the machine's own is touched.
    """

    def __init__(self, base, repo=None, passphrase="correct horse", user=None):
        self.base = base
        self.repo = repo or os.path.join(base, "repo")
        self.passfile = os.path.join(base, "pass")
        self.user = user
        if not os.path.exists(self.passfile):
            with open(self.passfile, "w") as f:
                f.write(passphrase + "\n")
            os.chmod(self.passfile, 0o600)
        for d in ("home", "cache"):
            os.makedirs(os.path.join(base, d), 0o755, exist_ok=True)
        self.env = {k: v for k, v in os.environ.items()
                    if not k.startswith(("PG", "PASTFS_", "XDG_"))}
        self.env.update(PASTFS_REPO=self.repo, PASTFS_PASSPHRASE_FILE=self.passfile,
                        HOME=os.path.join(base, "home"),
                        XDG_CACHE_HOME=os.path.join(base, "cache"), LC_ALL="C.UTF-8", TZ="UTC")
        self.credentials = {}
        if user is not None:
            self.credentials = {"user": user[0], "group": user[1], "extra_groups": []}
            for path in (base, self.passfile, base + "/home", base + "/cache"):
                os.chown(path, *user)

    def popen(self, *args, env=None, **kw):
        kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen([BIN] + [str(a) for a in args], cwd="/",
                                env={**self.env, **(env or {})}, **self.credentials, **kw)

    def run(self, *args, status=DONE, timeout=120, env=None, input=None, **kw):
        """
        Run it and expect `status` (None: any).  Output goes to files, because a mount's daemon
        would keep a pipe open.
        """
        args = [str(a) for a in args]
        log = os.path.join(self.base, "out.%d.%d" % (os.getpid(), threading.get_ident()))
        with open(log, "w+b") as out, open(log + ".err", "w+b") as err:
            p = subprocess.Popen([BIN] + args, cwd="/", env={**self.env, **(env or {})},
                                 stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
                                 stdout=out, stderr=err, start_new_session=True,
                                 **{**self.credentials, **kw})
            try:
                p.communicate(input.encode() if input is not None else None, timeout * SLOW)
            except subprocess.TimeoutExpired:
                os.killpg(p.pid, signal.SIGKILL)
                p.wait()
                raise AssertionError("pastfs %s: still running after %d s" % (" ".join(args),
                                                                              timeout * SLOW))
            out.seek(0)
            err.seek(0)
            r = Result(args, p.returncode, out.read().decode(errors="replace"),
                       err.read().decode(errors="replace"))
        os.unlink(log)
        os.unlink(log + ".err")
        assert r.status >= 0, "killed by signal %d: %s" % (-r.status, r)
        for word in ("AddressSanitizer", "ThreadSanitizer", "LeakSanitizer", "runtime error:"):
            assert word not in r.err, str(r)
        if status is not None:
            assert r.status == status, str(r)
        if r.status not in (DONE, BUSY) and status is not None:
            assert r.err.strip(), "a failure without a word: %s" % r
        return r

    def init(self):
        self.run("init", self.repo)
        return self

    def backup(self, source, *args, **kw):
        return self.run("backup", source, "--json", *args, **kw).json

    def snapshots(self, source):
        """The snapshots of a source as dictionaries, oldest first."""
        found = self.run("snapshots", source, "--json").json
        return found["snapshots"] if isinstance(found, dict) else found

    def restore(self, what, to, *args, **kw):
        self.run("restore", what, to, *args, **kw)
        return to

    def packs(self):
        return sorted(p for p in glob.glob(self.repo + "/packs/**", recursive=True)
                      if os.path.isfile(p))

    def stored_bytes(self):
        return sum(os.path.getsize(os.path.join(d, n))
                   for d, _, names in os.walk(self.repo) for n in names)

    def cache_files(self):
        return [os.path.join(d, n) for d, _, names in os.walk(self.env["XDG_CACHE_HOME"])
                for n in names]

    @contextlib.contextmanager
    def mounted(self, *args, seconds=90):
        """
        Mount on a new directory and unmount at the end, whatever happens.  After `seconds` a
        watchdog detaches the mount and kills its process, so that a test that hangs in it fails.
        """
        where = os.path.join(self.base, "mnt.%d" % time.monotonic_ns())
        os.mkdir(where, 0o755)
        if self.user:
            os.chown(where, *self.user)
        fired = threading.Event()

        def detach():
            for pid in serving(where):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["fusermount3", "-uz", where], stderr=subprocess.DEVNULL)
            if os.geteuid() == 0 and is_mount(where):
                subprocess.run(["umount", "-l", where], stderr=subprocess.DEVNULL)

        def bark():
            fired.set()
            detach()

        dog = threading.Timer(seconds * SLOW, bark)
        dog.daemon = True
        dog.start()
        try:
            self.run("mount", where, *args, timeout=30)
            assert is_mount(where), "mount said it was done, but nothing is mounted"
            yield where
            assert not fired.is_set(), "the watchdog ended the mount after %d s" % (seconds * SLOW)
        finally:
            dog.cancel()
            if is_mount(where):
                if self.run("umount", where, status=None).status != DONE:
                    detach()
            if not wait_gone(where):
                detach()
            with contextlib.suppress(OSError):
                os.rmdir(where)


def is_mount(path):
    with open("/proc/self/mounts") as f:
        return any(line.split()[1].replace("\\040", " ") == path for line in f)


def serving(mountpoint):
    """The processes of a mount: pastfs with this very mount point among its arguments."""
    found = []
    for entry in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            with open(entry, "rb") as f:
                args = f.read().decode(errors="replace").split("\0")
            if mountpoint in args and "pastfs" in args[0]:
                found.append(int(entry.split("/")[2]))
    return found


def wait_gone(mountpoint, seconds=15):
    """Whether the mount and its process are gone."""
    end = time.monotonic() + seconds * SLOW
    while time.monotonic() < end:
        if not is_mount(mountpoint) and not serving(mountpoint):
            return True
        time.sleep(0.05)
    return False


def file_sum(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def tree(top, skip=(), owners=True, times=True):
    """
    What is below `top`: relative path -> a tuple of all that a copy must keep.  `skip` holds
    relative paths that are left out with what is below them.
    """
    found = {}
    for d, dirs, names in os.walk(top):
        rel = os.path.relpath(d, top)
        for n in sorted(dirs + names):
            path = os.path.join(d, n)
            name = os.path.normpath(os.path.join(rel, n))
            if name in skip:
                if n in dirs:
                    dirs.remove(n)
                continue
            st = os.lstat(path)
            kind = stat.S_IFMT(st.st_mode)
            what = None
            if stat.S_ISREG(st.st_mode):
                what = (st.st_size, file_sum(path))
            elif stat.S_ISLNK(st.st_mode):
                what = os.readlink(path)
            found[name] = (kind, stat.S_IMODE(st.st_mode) if kind != stat.S_IFLNK else 0,
                           (st.st_uid, st.st_gid) if owners else None,
                           st.st_mtime_ns if times and kind != stat.S_IFLNK else None, what)
    return found


def assert_same(a, b, what="the trees"):
    """Compare two results of tree()."""
    missing = sorted(set(a) - set(b))
    extra = sorted(set(b) - set(a))
    differ = sorted(n for n in a if n in b and a[n] != b[n])
    assert not missing and not extra and not differ, (
        "%s differ: missing %s, extra %s, different %s" % (
            what, missing[:10], extra[:10], [(n, a[n], b[n]) for n in differ[:5]]))


# What a backup leaves out of a data directory, or changes, by PostgreSQL's rules.
NOT_COMPARED = ("postmaster.pid", "postmaster.opts", "pg_wal", "pg_stat", "pg_stat_tmp",
                "pg_notify", "pg_subtrans", "pg_replslot", "pg_serial", "pg_snapshots",
                "pg_dynshmem", "backup_label", "backup_manifest", "tablespace_map", "pg_tblspc",
                "current_logfiles", "recovery.signal", "global/pg_control", "postgresql.auto.conf",
                "pg_logical/replorigin_checkpoint", "base/pgsql_tmp")


def data_tree(top):
    """The content of a data directory that must be equal in a backup of a quiet cluster."""
    found = tree(top, skip=NOT_COMPARED, owners=False, times=False)
    return {n: v for n, v in found.items() if os.path.basename(n) != "pg_internal.init"}
