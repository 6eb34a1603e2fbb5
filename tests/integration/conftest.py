"""Fixtures that the integration tests share; a process tests one file, and has its own of each."""
import os
import shutil
import subprocess
import tempfile

import pytest

import pg
import vault

# What pastfs is asked to protect is small; the servers do not sync.


@pytest.fixture(scope="session")
def base():
    """A directory that every user can pass through; gone at the end."""
    path = tempfile.mkdtemp(prefix="pastfs-it-")
    os.chmod(path, 0o755)
    yield path
    with open("/proc/self/mounts") as f:
        left = [line.split()[1] for line in f if line.split()[1].startswith(path + "/")]
    for where in reversed(left):
        subprocess.run(["umount", "-l", where] if pg.ROOT else ["fusermount3", "-uz", where],
                       check=False)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def tmp(base):
    """A directory of one test."""
    path = tempfile.mkdtemp(prefix="t", dir=base)
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def clusters(base):
    """Makes clusters and stops them all at the end: clusters("name", checksums=False, ...)."""
    made = []

    def make(name, **kw):
        c = pg.Cluster(base, name, **kw)
        made.append(c)
        return c

    yield make
    for c in made:
        c.stop("immediate")


@pytest.fixture(scope="session")
def cluster(clusters):
    """A cluster with checksums and pgbench's tables at scale 2: some 40 MB in all."""
    c = clusters("pg")
    c.pgbench("-i", "-q", "-s", "2")
    c.sql("checkpoint")
    return c


@pytest.fixture(scope="session")
def shared(base, cluster):
    """A repository with the source `main`, the shared cluster, and one snapshot of it."""
    path = os.path.join(base, "shared")
    os.mkdir(path, 0o755)
    p = vault.Pastfs(path).init()
    p.run("source", "add", "main", "--pg", cluster.conninfo())
    p.backup("main")
    return p


@pytest.fixture
def fresh(tmp):
    """A new repository, empty."""
    return vault.Pastfs(tmp).init()


@pytest.fixture
def main(fresh, cluster):
    """A new repository with the source `main`, the shared cluster."""
    fresh.run("source", "add", "main", "--pg", cluster.conninfo())
    return fresh


def pytest_configure(config):
    config.addinivalue_line("markers", "root: needs to run as root")
    config.addinivalue_line("markers", "fuse: needs /dev/fuse")


def pytest_runtest_setup(item):
    if item.get_closest_marker("root") and not pg.ROOT:
        pytest.skip("needs root")
    if item.get_closest_marker("fuse") and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")


@pytest.fixture(autouse=True)
def built():
    if not os.access(vault.BIN, os.X_OK):
        pytest.fail("%s is not built; run make" % vault.BIN)
