"""
A throw-away PostgreSQL, and a data directory started as a copy of one.

The server never runs as root: when the tests do, it runs as the user postgres.  Everything lies in
a directory of the caller's, with a Unix socket and a free port of its own.
"""
import glob
import os
import pwd
import shutil
import socket
import subprocess
import time

ROOT = os.geteuid() == 0


def _bindir():
    found = shutil.which("initdb")
    if found:
        return os.path.dirname(os.path.realpath(found))
    for d in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True):
        if os.path.exists(d + "/initdb"):
            return d
    raise RuntimeError("PostgreSQL's programs are not installed; run make deps")


BIN = _bindir()
USER = "postgres" if ROOT else pwd.getpwuid(os.geteuid()).pw_name
UID = pwd.getpwnam(USER).pw_uid
GID = pwd.getpwnam(USER).pw_gid


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def as_server_user():
    """Arguments for subprocess that make a child run as the server's user."""
    return {"user": UID, "group": GID, "extra_groups": []} if ROOT else {}


def server_env():
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    env.update(LC_ALL="C.UTF-8", HOME="/tmp", TZ="UTC")
    return env


def run(*args, check=True, timeout=120, user=True, **kw):
    """Run a program of PostgreSQL as the server's user; returns its standard output."""
    args = [os.path.join(BIN, args[0])] + [str(a) for a in args[1:]]
    p = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, errors="replace", timeout=timeout,
                       cwd="/", env=server_env(), **(as_server_user() if user else {}), **kw)
    if check and p.returncode:
        raise AssertionError("%s: status %d\n%s%s" % (" ".join(args), p.returncode, p.stdout,
                                                      p.stderr))
    return p.stdout


def owned_dir(path, mode=0o700):
    os.makedirs(path, mode)
    os.chmod(path, mode)
    if ROOT:
        os.chown(path, UID, GID)
    return path


class Server:
    """A PostgreSQL on the data directory `data`, with a socket and a port of its own."""

    def __init__(self, data, run_dir, options=""):
        self.data = data
        self.run_dir = run_dir
        self.port = free_port()
        self.log = os.path.join(run_dir, "log")
        self.options = options

    def start(self, check=True):
        options = "-p %d -k %s %s" % (self.port, self.run_dir, self.options)
        for _ in range(3):
            p = subprocess.run([BIN + "/pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60",
                                "-o", options, "start"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=90,
                               cwd="/", env=server_env(), **as_server_user())
            if p.returncode == 0:
                return True
            # Somebody else may have taken the port meanwhile.
            if "Address already in use" not in self.log_text():
                break
            self.port = free_port()
            options = "-p %d -k %s %s" % (self.port, self.run_dir, self.options)
        if check:
            raise AssertionError("the server on %s did not start:\n%s" % (self.data,
                                                                          self.log_text()))
        return False

    def log_text(self):
        try:
            with open(self.log, errors="replace") as f:
                return f.read()[-6000:]
        except OSError:
            return ""

    def stop(self, mode="fast"):
        if os.path.exists(self.data + "/postmaster.pid"):
            subprocess.run([BIN + "/pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=90, cwd="/", env=server_env(),
                           **as_server_user())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop("immediate")

    def conninfo(self, db="postgres", user="postgres"):
        return "host=%s port=%d dbname=%s user=%s" % (self.run_dir, self.port, db, user)

    def sql(self, statement, db="postgres", check=True):
        """Rows as psql prints them unaligned: columns divided by |, rows by newlines."""
        return run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.conninfo(db), "-c",
                   statement, check=check).strip()

    def pgbench(self, *args, db="postgres"):
        return run("pgbench", *args, "-h", self.run_dir, "-p", self.port, "-U", "postgres", db)

    def load(self, seconds, clients=2, db="postgres", rate=None):
        """pgbench in the background; wait() it."""
        args = [BIN + "/pgbench", "-n", "-T", str(seconds), "-c", str(clients), "-h", self.run_dir,
                "-p", str(self.port), "-U", "postgres"]
        if rate:
            args += ["-R", str(rate)]
        return subprocess.Popen(args + [db], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, cwd="/", env=server_env(),
                                **as_server_user())

    def dump(self, db="postgres"):
        """Everything in the database as text, without what differs from run to run."""
        text = run("pg_dump", "--no-unlogged-table-data", "-d", self.conninfo(db))
        return "\n".join(line for line in text.splitlines()
                         if not line.startswith(("-- Dumped", "\\restrict", "\\unrestrict")))

    def amcheck(self, db="postgres"):
        """pg_amcheck over all of it; an assertion says what it found."""
        run("pg_amcheck", "--heapallindexed", "--install-missing", "-h", self.run_dir, "-p",
            self.port, "-U", "postgres", db)

    def pgbench_is_consistent(self):
        """The sums that pgbench's transactions keep equal."""
        sums = self.sql("select (select sum(abalance) from pgbench_accounts),"
                        "(select sum(bbalance) from pgbench_branches),"
                        "(select sum(tbalance) from pgbench_tellers),"
                        "coalesce((select sum(delta) from pgbench_history), 0)").split("|")
        assert len(set(sums)) == 1, "pgbench's sums differ: %s" % sums


class Cluster(Server):
    """A new cluster below `base`, made by initdb, started."""

    def __init__(self, base, name, checksums=True, conf="", auth="trust", initdb=()):
        run_dir = owned_dir(os.path.join(base, name), 0o755)
        super().__init__(os.path.join(run_dir, "data"), run_dir)
        run("initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N",
            "--auth-local=" + auth, "--auth-host=trust", *(["-k"] if checksums else []), *initdb)
        with open(self.data + "/postgresql.conf", "a") as f:
            f.write("port = %d\nunix_socket_directories = '%s'\nlisten_addresses = '127.0.0.1'\n"
                    "fsync = off\nautovacuum = off\nshared_buffers = 16MB\nmax_wal_senders = 10\n"
                    "max_wal_size = 256MB\nlog_min_messages = warning\ntimezone = UTC\n%s\n"
                    % (self.port, run_dir, conf))
        self.start()


def start_copy(data, base, name, options=""):
    """A server on a restored or copied data directory; use it in a with statement."""
    return Server(data, owned_dir(os.path.join(base, name), 0o755),
                  "-c fsync=off -c autovacuum=off -c listen_addresses= " + options)


def wait_for(what, timeout=30, pause=0.05):
    """Wait until what() is true; returns whether it became so."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(pause)
    return False
