"""The golden repositories and what their lists say."""
import glob
import os
import re
import stat

import vault

DIRS = sorted(glob.glob(os.path.join(vault.TOP, "tests", "golden", "v*")))
TYPES = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO}


def unescape(field):
    """A field's bytes: %XX stands for a byte, a lone "-" for nothing."""
    if field == "-":
        return b""
    return re.sub(rb"%([0-9A-F]{2})", lambda m: bytes([int(m.group(1), 16)]), field.encode())


class Entry:
    def __init__(self, line):
        (self.snapshot, path, self.type, mode, uid, gid, mtime, size, what,
         xattrs) = line.rstrip("\n").split("\t")
        self.path = unescape(path)
        self.mode, self.uid, self.gid, self.size = int(mode, 8), int(uid), int(gid), int(size)
        seconds, ns = mtime.split(".")
        self.mtime = (int(seconds), int(ns))
        self.target = unescape(what) if self.type == "symlink" else b""
        self.sum = what if self.type == "file" else ""
        self.xattrs = {} if xattrs == "-" else {
            k: bytes.fromhex(v) for k, v in (x.split("=") for x in xattrs.split(","))}


def entries(d):
    """{snapshot: {path: Entry}} of a golden directory."""
    found = {}
    with open(os.path.join(d, "list")) as f:
        for line in f:
            e = Entry(line)
            found.setdefault(e.snapshot, {})[e.path] = e
    assert found and all(b"" in tree for tree in found.values())
    return found
