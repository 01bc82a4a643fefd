"""Files as they are found: compressed, foreign, damaged, unreadable, changing, linked in circles, or no files."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import socket
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyseme.core.errors import InputError
from polyseme.corpora import JsonlCorpusConfig, ParquetCorpusConfig, TextCorpusConfig
from polyseme.corpora.files import find_files

LINES = [f"line {i} of the text, naïve" for i in range(300)]
TEXT = "\n".join(LINES).encode()
JSONL = "".join(json.dumps({"text": line}) + "\n" for line in LINES).encode()


def zstd(data: bytes) -> bytes:
    import pyarrow as pa

    return pa.compress(data, codec="zstd", asbytes=True)


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
PACKERS["lzma"] = lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE)


def texts(config) -> list[str]:
    return [document.text for document in config.build().documents()]


def corpus(path: Path, **more):
    kind = {".jsonl": JsonlCorpusConfig, ".parquet": ParquetCorpusConfig}.get(path.suffix, TextCorpusConfig)
    return kind(paths=(path,), **more)


class Heard:
    """A reporter and its one task."""

    def __init__(self):
        self.tasks: list[str] = []
        self.amounts: list[float] = []
        self.total = 0.0

    def task(self, name, total, unit=""):
        self.tasks.append(name)
        self.total = total
        return self

    def message(self, text):
        raise AssertionError(text)

    def update(self, done, total=None, note=""):
        self.amounts.append(done)


def test_hashing_a_large_corpus_shows_how_far_it_is(tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_bytes(TEXT * 300)
    small, heard = TextCorpusConfig(paths=(tmp_path,)).build(), Heard()
    assert small.hashed(heard) == small.fingerprint
    assert not heard.tasks
    monkeypatch.setattr("polyseme.corpora.files._SLOW_BYTES", 0)
    large = TextCorpusConfig(paths=(tmp_path,)).build()
    assert large.hashed(heard) == small.fingerprint
    assert heard.tasks == ["hash the corpus"]
    assert len(heard.amounts) > 5
    assert heard.amounts == sorted(heard.amounts)
    assert heard.amounts[-2] < heard.amounts[-1] == heard.total == 900 * len(TEXT) / 1e6
    large.hashed(heard)
    assert heard.tasks == ["hash the corpus"]  # once
    assert len(list(large.documents())) == len(list(small.documents()))


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("streams", [1, 3])
def test_compressed_files_are_read_as_what_they_unpack_to(tmp_path, kind, streams):
    pack = PACKERS[kind]
    if kind == "lzma" and streams > 1:
        pytest.skip("the old format holds one stream")
    (tmp_path / f"a.txt.{kind}").write_bytes(b"".join(pack(TEXT) for _ in range(streams)))
    (tmp_path / f"b.jsonl.{kind}").write_bytes(b"".join(pack(JSONL) for _ in range(streams)))
    assert "".join(texts(TextCorpusConfig(paths=(tmp_path / f"a.txt.{kind}",)))) == TEXT.decode() * streams
    assert texts(JsonlCorpusConfig(paths=(tmp_path,), glob=f"**/*.jsonl.{kind}")) == LINES * streams


def test_zeros_after_a_stream_are_part_of_the_format(tmp_path):
    (tmp_path / "a.txt").write_bytes(lzma.compress(TEXT) + b"\0" * 8 + lzma.compress(TEXT) + b"\0" * 400_000)
    assert "".join(texts(corpus(tmp_path / "a.txt"))) == TEXT.decode() * 2


def test_the_fix_for_a_folder_of_compressed_files_is_possible(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSONL))
    with pytest.raises(InputError, match=r"set `glob` to what is there, such as '\*\*/\*\.jsonl\.gz'"):
        texts(JsonlCorpusConfig(paths=(tmp_path,)))
    assert texts(JsonlCorpusConfig(paths=(tmp_path,), glob="**/*.jsonl.gz")) == LINES


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_compressed_file_is_named(tmp_path, kind, name, damage):
    if damage == "changed" and kind in ("zst", "lzma"):
        pytest.skip("without a checksum, what unpacks is what there is")
    data = bytearray(PACKERS[kind](os.urandom(3000).hex().encode() + b"\n" if name == "a.txt" else JSONL))
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"(cannot be unpacked to its end|not JSON|NUL|not UTF-8).*a\.(txt|jsonl)"):
        texts(corpus(path))
    if damage == "cut":
        kept = corpus(path, errors="skip").build()
        list(kept.documents())
        assert kept.left_out.count >= 1


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_bomb_is_stopped(tmp_path, monkeypatch, kind, name):
    monkeypatch.setattr("polyseme.corpora.opening.UNPACKED_FREELY", 1 << 20)
    path = tmp_path / name
    path.write_bytes(PACKERS[kind](b'{"text": "%s"}\n' % (b"a" * 9_987) * 1_000))
    assert path.stat().st_size * 200 < 10_000_000
    documents, lengths = corpus(path).build().documents(), []
    with pytest.raises(InputError, match=r"unpacks to more than 200 times its own size.*Fix: unpack it first"):
        lengths.extend(len(document.text) for document in documents)
    assert sum(lengths) <= max(1 << 20, 200 * path.stat().st_size) + (1 << 18)


FOREIGN = {
    "UTF-16 text": "héllo".encode("utf-16"),
    "UTF-32 text": "héllo".encode("utf-32"),
    "UTF-16 text without a byte order mark": ("hello there\n" * 20).encode("utf-16-le"),
    "a Parquet file": b"PAR1" + bytes(30) + b"PAR1",
    "an Arrow file": b"ARROW1\0\0" + bytes(30),
    "a PDF file": b"%PDF-1.7\n",
    "a SQLite database": b"SQLite format 3\0",
    "binary data": bytes(range(256)) + bytes(2000),
    "a ZIP archive": b"PK\x03\x04....",
    "a tar archive": b"",
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_foreign_file_is_named_with_what_to_do_and_left_out_when_skipping(tmp_path, what, name, packed):
    data = FOREIGN[what]
    if what == "a tar archive":
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("x.txt"), io.BytesIO(b""))
        data = held.getvalue()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(InputError, match=f"(is|like) {'gzip of ' if packed else ''}{what}.*not UTF-8 text") as caught:
        texts(corpus(path))
    assert ("iconv" in str(caught.value)) == what.startswith("UTF-")  # only what is text can be converted
    (tmp_path / f"b{path.suffix}").write_bytes(TEXT if name == "a.txt" else JSONL)
    both = corpus(path, errors="skip").model_copy(update={"paths": (tmp_path,)}).build()
    assert "".join(d.text for d in both.documents()).replace("\n", "") == "".join(LINES)
    assert both.left_out.count == 1


def test_another_encoding_and_binary_data_get_different_advice(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Größe und Maß\n".encode("latin1") * 50)
    with pytest.raises(InputError, match=r"byte 0xf6 at offset 2.*iconv -f latin1"):
        texts(corpus(tmp_path / "latin.txt"))
    (tmp_path / "binary.txt").write_bytes(b"MZ" + bytes(range(1, 256)) * 8)
    with pytest.raises(InputError, match="among binary data") as caught:
        texts(corpus(tmp_path / "binary.txt"))
    assert "iconv" not in str(caught.value)


def test_a_compressed_parquet_file_and_a_zip_are_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(InputError, match="this is gzip data, not a Parquet file by itself"):
        texts(corpus(tmp_path / "a.parquet"))
    with zipfile.ZipFile(tmp_path / "b.jsonl", "w") as archive:
        archive.writestr("b.jsonl", JSONL)
    with pytest.raises(InputError, match="a ZIP archive"):
        texts(corpus(tmp_path / "b.jsonl"))


GLOBS = ["", "/*", "../*", "a/../../*", "**/", "//", ".", "./*", "a//b", "/etc/passwd", "x\0y"]


@pytest.mark.parametrize("glob", GLOBS)
def test_a_pattern_that_leads_out_of_the_folder_is_refused(tmp_path, glob):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    with pytest.raises(ValidationError):
        JsonlCorpusConfig(paths=(tmp_path,), glob=glob)
    with pytest.raises(InputError, match="no pattern of files below a folder"):
        find_files([tmp_path], glob)


@pytest.mark.parametrize("glob", ["[", "***", "**.jsonl", "*" * 300, "**/" * 80 + "*", "[!a", "?" * 50, "*a" * 100])
def test_any_other_pattern_is_answered_at_once(tmp_path, glob):
    (tmp_path / ("a" * 200)).mkdir()
    (tmp_path / ("a" * 200) / ("a" * 200 + ".jsonl")).write_bytes(JSONL)
    with contextlib.suppress(InputError):
        assert find_files([tmp_path], glob)


names = st.text(st.sampled_from("ab."), min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
globs = st.lists(st.sampled_from(["**", "*", "a*", "?", "[ab]", "*.a", "b", "[!a]*"]), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(
    st.sets(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=8), globs.filter(lambda g: g[-1] != "**")
)
def test_patterns_mean_what_pathlib_means_by_them(tmp_path_factory, paths, parts):
    folder = tmp_path_factory.mktemp("glob")
    for path in paths:
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text("x")
        except OSError:
            continue  # a file stands where a folder should
    expected = sorted(p for p in folder.glob("/".join(parts)) if p.is_file())
    if not expected:
        with pytest.raises(InputError, match="no file in the folder matches"):
            find_files([folder], "/".join(parts))
        return
    assert [file.path for file in find_files([folder], "/".join(parts))] == expected


@pytest.mark.parametrize("kind", [JsonlCorpusConfig, TextCorpusConfig, ParquetCorpusConfig])
@pytest.mark.parametrize(
    "path",
    ["/proc/self/mem", "/proc/cpuinfo", "/sys/kernel/mm", "/dev/zero", "/dev/null", "a\0b", "x" * 3000, "x/" * 2000],
)
def test_what_is_no_file_of_data_is_refused(kind, path):
    with pytest.raises((InputError, ValidationError)):
        list(kind(paths=(Path(path),)).build().documents())


def test_a_path_that_no_system_takes_is_refused_from_python_too():
    for path in ("a\0b", "x" * 5000, "/" + "y/" * 3000):
        with pytest.raises(InputError, match=r"Where: .*Fix"):
            find_files([Path(path)], "*")


def test_pipes_and_sockets_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.jsonl"))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "pipe.jsonl")
    for name, kind in (("pipe.jsonl", "a pipe"), ("socket.jsonl", "a socket"), ("link.jsonl", "a pipe")):
        with pytest.raises(InputError, match=f"this is {kind}, not a file"):
            texts(corpus(tmp_path / name))
    listening.close()
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    assert texts(JsonlCorpusConfig(paths=(tmp_path,))) == LINES  # in a folder only files are looked at


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(JSONL)
    found = corpus(path).build()
    assert found.files
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="this is a pipe"):
        list(found.documents())


def test_links_are_followed_once_and_circles_end(tmp_path):
    inner = tmp_path / "corpus" / "inner"
    inner.mkdir(parents=True)
    (inner / "a.txt").write_text("a")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.txt").write_text("b")
    (tmp_path / "corpus" / "linked").symlink_to(outside)
    (inner / "round").symlink_to(tmp_path / "corpus")
    (inner / "nowhere.txt").symlink_to(tmp_path / "nothing")
    (inner / "self.txt").symlink_to(inner / "self.txt")
    (inner / "again.txt").symlink_to(inner / "a.txt")
    assert sorted(texts(TextCorpusConfig(paths=(tmp_path / "corpus", tmp_path / "corpus", inner)))) == ["a", "b"]
    with pytest.raises(InputError, match="leads back to itself"):
        texts(corpus(inner / "self.txt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    for locked in (tmp_path / "b.txt", tmp_path / "sub"):
        locked.chmod(0)
        with pytest.raises(InputError, match="does not allow it"):
            texts(TextCorpusConfig(paths=(tmp_path,)))
        locked.chmod(0o755)


def test_a_refusal_while_a_file_is_read_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("a")

    def refuse(*args, **more):
        raise PermissionError(13, "Permission denied", str(path))

    found = corpus(path).build()
    assert found.files
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"does not allow it \(Permission denied\).*a\.txt"):
        list(found.documents())


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("how", ["other bytes", "same size", "gone", "folder"])
def test_what_is_read_is_what_was_hashed(tmp_path, name, when, how):
    path, data = tmp_path / name, TEXT if name == "a.txt" else JSONL
    path.write_bytes(data)
    found = corpus(path).build()
    assert found.fingerprint

    def change():
        before = path.stat()
        path.unlink() if how in ("gone", "folder") else path.write_bytes(data[:-1] + b" " * (1 + (how != "same size")))
        if how == "folder":
            path.mkdir()
        if how == "same size":  # as far as a coarse clock can tell, nothing happened
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    if when == "before":
        change()
    documents = found.documents()
    if when == "during":
        next(documents)
        change()
    with pytest.raises(InputError, match=rf"(changed while|no such file|a folder).*{name}"):
        list(documents)


def test_a_change_that_the_clock_is_too_coarse_for_is_found(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    found = corpus(path).build()
    assert found.fingerprint
    path.write_bytes(TEXT.swapcase())
    now = path.stat()
    identity = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    found._stamps[path] = replace(found._stamps[path], identity=identity)
    with pytest.raises(InputError, match="changed while"):
        list(found.documents())


def test_a_corpus_that_does_not_change_is_read_again_and_again(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT)
    found = TextCorpusConfig(paths=(tmp_path,)).build()
    first = found.fingerprint
    assert [d.text for d in found.documents()] == [d.text for d in found.documents()]
    assert TextCorpusConfig(paths=(tmp_path,)).build().fingerprint == first
