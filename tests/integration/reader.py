"""
A reader of the repository format, written from docs/format.md alone.

It shares no code with pastfs and no library that pastfs reads by, except zstd itself, which is the
format's.  Slow and plain: it exists to show that the document is enough.
"""
import hashlib
import hmac
import os
import struct

import argon2.low_level
import xxhash
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ZEROS = bytes(16)


class Broken(Exception):
    pass


def need(truth, what):
    if not truth:
        raise Broken(what)


def crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ 0x82F63B78 if n & 1 else n >> 1
        table.append(n)
    return table


CRC = crc_table()


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = c >> 8 ^ CRC[(c ^ b) & 0xFF]
    return c ^ 0xFFFFFFFF


def derive(key, salt, label, n):
    """HKDF-SHA-256, RFC 5869."""
    prk = hmac.new(salt or bytes(32), key, hashlib.sha256).digest()
    out, block, i = b"", b"", 1
    while len(out) < n:
        block = hmac.new(prk, block + label.encode() + bytes([i]), hashlib.sha256).digest()
        out += block
        i += 1
    return out[:n]


def keyed_id(algorithm, key, content):
    if algorithm == 1:
        return hmac.new(key, content, hashlib.sha256).digest()
    return hashlib.blake2b(content, digest_size=32, key=key).digest()


def decode(encoding, data, length, base=b""):
    """Section "Codec"."""
    if encoding == 0:
        need(len(data) == length, "raw content of another length")
        return data
    need(encoding in (1, 2), "unknown encoding")
    dictionary = zstandard.ZstdCompressionDict(
        base, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if encoding == 2 else None
    # With its magic number in front it is a frame that every decoder knows.
    d = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << 24)
    content = d.decompress(b"\x28\xb5\x2f\xfd" + data, max_output_size=length)
    need(len(content) == length, "content of another length")
    return content


class Cursor:
    def __init__(self, data):
        self.data, self.off = data, 0

    def take(self, n):
        need(self.off + n <= len(self.data), "cut short")
        self.off += n
        return self.data[self.off - n:self.off]

    def unpack(self, fmt):
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt)))

    def one(self, fmt):
        return self.unpack(fmt)[0]

    def left(self):
        return len(self.data) - self.off


def fields(data, known):
    """A field record: {tag: [values]}."""
    c, found = Cursor(data), {}
    while c.left():
        tag, length = c.unpack("HI")
        value = c.take(length)
        need(tag in known or not tag & 0x8000, "a required field %#x that is not known" % tag)
        found.setdefault(tag, []).append(value)
    return found


def record(plain, known):
    """A record of a sealed object, with its version and its end."""
    c = Cursor(plain)
    need(c.one("I") == 1, "a newer record")
    need(plain[-6:] == struct.pack("<HI", 0xFFFF, 0), "a record without its end")
    return fields(plain[4:-6], known)


def number(value):
    need(len(value) == 8, "a number of %d bytes" % len(value))
    return struct.unpack("<Q", value)[0]


class Entry:
    """A tree entry."""

    def __init__(self, data):
        c = Cursor(data)
        (self.type, flags, name_len, self.mode, self.uid, self.gid, seconds, ns) = c.unpack("BBHIIIqI")
        self.mtime = (seconds, ns)
        if flags & 1:
            c.take(28)
        self.name = c.take(name_len)
        f = fields(data[c.off:], ())
        self.content = Content(f[1][0]) if 1 in f else None
        self.target = f.get(2, [b""])[0]
        self.hardlink = number(f[4][0]) if 4 in f else 0
        self.xattrs = {}
        for x in f.get(3, []):
            n = struct.unpack("<H", x[:2])[0]
            self.xattrs[x[2:2 + n].decode()] = x[2 + n:]


class Content:
    def __init__(self, data):
        c = Cursor(data)
        self.depth, self.chunking, _, self.chunk_bytes, self.size, self.crc, n = c.unpack("BBHIQII")
        self.refs = []
        for _ in range(n):
            if self.depth == 0:
                kind, length, crc, cid, _ = c.unpack("BII32s16s")
                self.refs.append((kind, length, crc, cid))
            else:
                self.refs.append(c.unpack("QI32s"))
        need(not c.left(), "something behind the references of a content")


class Repository:
    def __init__(self, root, passphrase=None, key_file=None):
        self.root = root
        self.encodings = set()
        self.read_header()
        self.master = self.open_slots(passphrase, key_file)
        mac = hmac.new(derive(self.master, self.id, "pastfs v1 header mac", 32), self.header[:128],
                       hashlib.sha256).digest()
        need(mac == self.header[128:], "the header's MAC is wrong")
        self.domains = {ZEROS: derive(self.master, self.id, "pastfs v1 repository", 32)}
        for name in self.list("domains"):
            self.open_domain(name)
        self.places = {}
        self.load_index()

    # ---- objects in a directory ----

    def path(self, name):
        if name.startswith("packs/"):
            x = name[len("packs/"):]
            return os.path.join(self.root, "packs", x[:2], x)
        return os.path.join(self.root, name)

    def get(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def list(self, prefix):
        found = []
        for d, _, names in os.walk(os.path.join(self.root, prefix)):
            for n in names:
                if n.startswith("."):
                    continue
                rel = os.path.relpath(os.path.join(d, n), self.root)
                if prefix == "packs":
                    rel = "packs/" + n
                found.append(rel)
        return sorted(found)

    # ---- header, slots, domains ----

    def read_header(self):
        self.header = h = self.get("pastfs")
        need(h[:8] == b"PASTFSR1", "not a repository")
        version, length, required, _ = struct.unpack("<IIQQ", h[8:32])
        need(version == 1, "a newer format")
        need(length == len(h) == 160 and required == 0, "a header of another kind")
        need(crc32c(h[:124]) == struct.unpack("<I", h[124:128])[0], "the header is damaged")
        self.id, self.algorithm = h[32:48], h[48]
        need(h[49] == 1, "another cipher")

    def open_slots(self, passphrase, key_file):
        for name in self.list("keys"):
            s = self.get(name)
            need(s[:8] == b"PASTFSK1" and len(s) == 256, "not a key slot")
            need(crc32c(s[:252]) == struct.unpack("<I", s[252:])[0], "a slot is damaged")
            need(s[16:32] == self.id and s[32:40].hex() == name.split("/")[1], "a slot of another")
            kind, salt = s[12], s[128:144]
            passes, lanes, memory = struct.unpack("<IIQ", s[112:128])
            if kind == 1 and passphrase is not None:
                key = argon2.low_level.hash_secret_raw(
                    passphrase, salt, passes, memory // 1024, lanes, 32, argon2.low_level.Type.ID,
                    0x13)
            elif kind == 2 and key_file is not None:
                key = derive(hashlib.sha256(key_file).digest(), salt, "pastfs v1 key file", 32)
            else:
                continue
            try:
                return AESGCM(key).decrypt(s[144:156], s[156:204], s[:144])
            except Exception:
                continue
        raise Broken("no slot opens")

    def open_domain(self, name):
        d = self.get(name)
        need(d[:8] == b"PASTFSD1" and len(d) == 144, "not a domain")
        need(crc32c(d[:140]) == struct.unpack("<I", d[140:])[0], "a domain is damaged")
        need(d[16:32] == self.id and d[32:48].hex() == name.split("/")[1], "a domain of another")
        wrap = derive(self.master, d[32:48], "pastfs v1 domain wrap", 32)
        self.domains[d[32:48]] = AESGCM(wrap).decrypt(d[56:68], d[68:116], d[:56])

    def domain_key(self, domain, what):
        return derive(self.domains[domain], self.id, "pastfs v1 " + what, 32)

    # ---- sealed objects ----

    def sealed(self, name, kind):
        o = self.get(name)
        need(o[:8] == b"PASTFSO1", "not a sealed object")
        need(struct.unpack("<II", o[8:16]) == (1, kind), "of another version or kind")
        need(crc32c(o[:108]) == struct.unpack("<I", o[108:112])[0], "%s is damaged" % name)
        need(o[16:32] == self.id, "of another repository")
        key = derive(self.domain_key(o[32:48], "object"), o[48:80], "pastfs v1 sealed", 32)
        encoded = AESGCM(key).decrypt(bytes(12), o[112:], o[:112] + name.encode())
        return decode(o[84], encoded, struct.unpack("<I", o[80:84])[0])

    # ---- where chunks are ----

    def read_toc(self, c, pack, domain, kind):
        for _ in range(c.one("I")):
            cid, off, sealed_len, length, encoding = c.unpack("32sIIIB3x")
            base = c.take(32) if encoding == 2 else None
            self.places.setdefault(cid, (pack, domain, kind, off, sealed_len, length, encoding, base))

    def load_index(self):
        for name in self.list("index"):
            c = Cursor(self.sealed(name, 3))
            need(c.one("I") == 1, "a newer index object")
            c.take(16 * c.one("I"))
            for _ in range(c.one("I")):
                pack, domain, kind, _ = c.unpack("32s16sIQ")
                self.read_toc(c, pack, domain, kind)
            need(not c.left(), "something behind the last pack")

    def pack_key(self, pack, domain):
        out = derive(self.domain_key(domain, "pack"), self.id + pack, "pastfs v1 pack key", 64)
        return out[:32], out[32:]

    def places_from_packs(self):
        """The same as load_index() gives, from the packs alone."""
        known, self.places = self.places, {}
        for name in self.list("packs"):
            p = self.get(name)
            t = p[-64:]
            need(p[:8] == b"PASTFSP1" and t[:8] == b"PASTFSPE", "not a pack")
            need(crc32c(p[:140]) == struct.unpack("<I", p[140:144])[0], "a pack's header")
            need(crc32c(t[:60]) == struct.unpack("<I", t[60:])[0], "a pack's trailer")
            off, sealed_len, n, total = struct.unpack("<QIIQ", t[8:32])
            need(total == len(p) and off + sealed_len + 64 == total, "a pack's length")
            need(xxhash.xxh3_128_digest(p[:-64]) == t[32:48], "a pack's checksum")
            kind, domain, pack = struct.unpack("<I", p[12:16])[0], p[32:48], p[48:80]
            need(pack.hex() == name.split("/")[-1], "a pack of another name")
            key, commitment = self.pack_key(pack, domain)
            need(commitment == p[80:112], "a pack's key commitment")
            toc = AESGCM(key).decrypt(struct.pack("<IQ", 2, off), p[off:off + sealed_len],
                                      pack + domain + struct.pack("<I", kind))
            c = Cursor(toc)
            self.read_toc(c, pack, domain, kind)
            need(not c.left() and struct.unpack("<I", toc[:4])[0] == n, "a table of contents")
        found, self.places = self.places, known
        return found

    def chunk(self, cid):
        need(cid in self.places, "chunk %s is in no pack" % cid.hex())
        pack, domain, _, off, sealed_len, length, encoding, _ = self.places[cid]
        with open(self.path("packs/" + pack.hex()), "rb") as f:
            f.seek(off)
            sealed = f.read(sealed_len)
        key, _ = self.pack_key(pack, domain)
        plain = AESGCM(key).decrypt(struct.pack("<IQ", 1, off), sealed,
                                    cid + struct.pack("<IB", length, encoding))
        base = b""
        if encoding == 2:
            base, plain = self.chunk(plain[:32]), plain[32:]
        content = decode(encoding, plain, length, base)
        need(keyed_id(self.algorithm, self.domain_key(domain, "chunk id"), content) == cid,
             "a chunk is not what its id says")
        self.encodings.add(encoding)
        return content

    # ---- contents and trees ----

    def node(self, cid, depth, length):
        """The references of a map node."""
        c = Cursor(self.chunk(cid))
        magic, d, n = c.unpack("4sB3xI")
        need(magic == b"PFM1" and d == depth and 1 <= n <= 1024, "a map node")
        if depth == 0:
            kinds, lengths, crcs = c.unpack("%dB" % n), c.unpack("%dI" % n), c.unpack("%dI" % n)
            ids = [c.take(32) for _ in range(n)]
            c.take(16 * n)
            refs = list(zip(kinds, lengths, crcs, ids))
        else:
            lengths, crcs = c.unpack("%dQ" % n), c.unpack("%dI" % n)
            refs = list(zip(lengths, crcs, [c.take(32) for _ in range(n)]))
        need(not c.left(), "something behind a map node")
        need(sum(r[1] if depth == 0 else r[0] for r in refs) == length, "a map node's lengths")
        return refs

    def leaves(self, refs, depth):
        for r in refs:
            if depth == 0:
                yield r
            else:
                yield from self.leaves(self.node(r[2], depth - 1, r[0]), depth - 1)

    def chunks(self, content):
        """(length, bytes or None for zeros), in order."""
        total = 0
        for kind, length, crc, cid in self.leaves(content.refs, content.depth):
            total += length
            if kind == 2:
                need(cid == bytes(32), "zeros with an id")
                yield length, None
                continue
            need(kind == 1, "unknown kind of chunk")
            data = self.chunk(cid)
            need(len(data) == length, "a chunk of another length")
            if length <= 65536:
                need(crc32c(data) == crc, "a chunk's CRC-32C")
            yield length, data
        need(total == content.size, "a content of another size")

    def directory(self, content):
        need(content.chunking == 3, "a directory that is none")
        before = b""
        for _, data in self.chunks(content):
            c = Cursor(data)
            magic, n = c.unpack("4sI")
            need(magic == b"PFT1", "a directory chunk")
            for _ in range(n):
                e = Entry(c.take(c.one("I")))
                need(e.name > before, "entries out of order")
                before = e.name
                yield e
            need(not c.left(), "something behind the last entry")

    def walk(self, entry, path=b""):
        yield path, entry
        if entry.type == 2:
            for e in self.directory(entry.content):
                yield from self.walk(e, path + b"/" + e.name if path else e.name)

    # ---- sources and snapshots ----

    def sources(self):
        newest = {}
        for name in self.list("sources"):
            _, sid, generation = name.split("/")
            newest[sid] = max(newest.get(sid, "0"), generation)
        known = {0x8001, 0x8002, 0x8003, 0x8004, 0x8007, 0x8009}
        return {record(self.sealed("sources/%s/%s" % x, 1), known)[0x8003][0].decode(): x[0]
                for x in newest.items()}

    def snapshots(self, source_id):
        """{name: (root entry, fields of the PostgreSQL part)}."""
        found = {}
        for name in self.list("snapshots/" + source_id):
            f = record(self.sealed(name, 2), {0x8001, 0x8002, 0x8004, 0x8005, 0x8006, 0x8020})
            need(f[0x8001][0].hex() == name.split("/")[2], "a snapshot of another name")
            part = fields(f[0x8020][0], {0x8001, 0x8002, 0x8003, 0x8010})
            need(number(part[0x8001][0]) == 1, "another kind of part")
            pg = fields(part[0x8010][0], {0x8001, 0x8002, 0x8003, 0x8004, 0x8005, 0x8007, 0x800a,
                                          0x800e})
            root = part[0x8003][0]
            need(struct.unpack("<I", root[:4])[0] == len(root) - 4, "a root's length")
            found[f[0x8005][0].decode()] = (Entry(root[4:]), pg)
        return found
