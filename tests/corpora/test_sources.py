"""Each corpus yields its documents, and says what, where and the fix when it cannot."""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from polyseme.core.errors import InputError
from polyseme.corpora import (
    CORPORA,
    CorpusConfig,
    HuggingFaceCorpusConfig,
    JsonlCorpusConfig,
    ParquetCorpusConfig,
    StdlibCorpusConfig,
    TextCorpusConfig,
    content_key,
    split_of,
)
from polyseme.corpora.jsonl import MAX_LINE_BYTES
from polyseme.corpora.stdlib import StdlibCorpus

TEXTS = ["first text\nof two lines\n", "second, naïve — 日本\n", "third\n"]
BLANK = " \n"


def write_text(folder: Path, texts: list[str]):
    for i, text in enumerate(texts):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    return TextCorpusConfig(paths=(folder,))


def write_jsonl(folder: Path, texts: list[str]):
    lines = [json.dumps({"text": text, "id": i}) for i, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return JsonlCorpusConfig(paths=(folder,))


def write_parquet(folder: Path, texts: list[str]):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": pa.array([*texts, None], pa.string()), "id": range(len(texts) + 1)})
    pq.write_table(table, folder / "a.parquet")
    return ParquetCorpusConfig(paths=(folder,))


def write_dataset(folder: Path, texts: list[str]):
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"text": [*texts, None], "id": list(range(len(texts) + 1))})
    datasets.DatasetDict({"train": rows}).save_to_disk(folder / "saved")
    return HuggingFaceCorpusConfig(name=str(folder / "saved"))


WRITERS = {"text": write_text, "jsonl": write_jsonl, "parquet": write_parquet, "huggingface": write_dataset}


def test_every_corpus_is_tested_here():
    assert set(CORPORA) == {*WRITERS, "stdlib"}
    assert all(config.model_fields["kind"].default == kind for kind, config in CORPORA.items())


@pytest.mark.parametrize("kind", WRITERS)
def test_documents_come_in_order_with_content_keys(tmp_path, kind):
    config = WRITERS[kind](tmp_path, [*TEXTS, BLANK])
    corpus = config.build()
    for _ in range(2):  # as often as one asks
        documents = list(corpus.documents())
        assert [d.text for d in documents] == TEXTS
        assert [d.key for d in documents] == [content_key(t) for t in TEXTS]
        assert len({d.name for d in documents}) == len(TEXTS)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_fingerprint_follows_the_content(tmp_path, kind):
    prints = []
    for name, texts in (("a", TEXTS), ("b", TEXTS), ("c", [*TEXTS[:2], "other\n"])):
        (tmp_path / name).mkdir()
        prints.append(WRITERS[kind](tmp_path / name, texts).build().fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("kind", WRITERS)
def test_configs_round_trip_through_the_union(tmp_path, kind):
    config = WRITERS[kind](tmp_path, TEXTS)
    adapter = TypeAdapter(CorpusConfig)
    back = adapter.validate_json(adapter.dump_json(config))
    assert back == config
    assert type(back) is type(config)


def test_an_unknown_kind_or_key_is_refused():
    adapter = TypeAdapter(CorpusConfig)
    with pytest.raises(ValidationError, match="stdlib"):
        adapter.validate_python({"kind": "stdlb"})
    with pytest.raises(ValidationError, match="path_s"):
        adapter.validate_python({"kind": "text", "paths": ["a"], "path_s": 1})


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "huggingface"])
def test_max_documents_stops_early(tmp_path, kind):
    config = WRITERS[kind](tmp_path, TEXTS).model_copy(update={"max_documents": 2})
    assert [d.text for d in config.build().documents()] == TEXTS[:2]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "huggingface"])
def test_a_missing_field_names_the_nearest_and_all(tmp_path, kind):
    key = "field" if kind == "jsonl" else "column"
    config = WRITERS[kind](tmp_path, TEXTS).model_copy(update={key: "texts"})
    with pytest.raises(InputError, match=r"no \w+ 'texts'.*did you mean 'text'.*text, id"):
        list(config.build().documents())


def test_the_names_there_are_are_shortened(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"' + "k" * 10**6 + '": 1}')
    with pytest.raises(InputError, match="no field 'text'") as caught:
        list(JsonlCorpusConfig(paths=(tmp_path / "a.jsonl",)).build().documents())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "huggingface"])
def test_a_column_of_numbers_is_refused(tmp_path, kind):
    key = "field" if kind == "jsonl" else "column"
    config = WRITERS[kind](tmp_path, TEXTS).model_copy(update={key: "id"})
    with pytest.raises(InputError, match="'id' holds int"):
        list(config.build().documents())


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_a_missing_path_and_an_empty_folder(tmp_path, kind):
    config = CORPORA[kind]
    with pytest.raises(InputError, match=r"no such file or folder.*nowhere"):
        list(config(paths=(tmp_path / "nowhere",)).build().documents())
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(InputError, match=r"no file in the folder matches.*\*\*/\*\.md"):
        list(config(paths=(tmp_path,)).build().documents())
    with pytest.raises(InputError, match="names no file"):
        list(config(paths=()).build().documents())


def test_files_and_folders_mix_and_a_file_named_twice_comes_once(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("b")
    (tmp_path / "a.md").write_text("a")
    config = TextCorpusConfig(paths=(tmp_path / "a.md", tmp_path, tmp_path / "sub" / "b.txt"))
    assert [(d.name, d.text) for d in config.build().documents()] == [("a.md", "a"), ("sub/b.txt", "b")]


@pytest.mark.parametrize("offset", [0, 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 7])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_that_is_not_utf8_is_named_with_its_offset(tmp_path, offset, mark):
    path = tmp_path / "bad.txt"
    path.write_bytes(mark + b"\n" * offset + "é".encode("latin1") + b"xyz")
    with pytest.raises(InputError, match=rf"byte 0xe9 at offset {offset + len(mark)}\b.*bad\.txt.*Fix: .*skip"):
        list(TextCorpusConfig(paths=(path,)).build().documents())


def test_a_character_cut_off_at_the_end_of_a_file_is_found(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"ab" + "日".encode()[:2])
    with pytest.raises(InputError, match="offset 2"):
        list(TextCorpusConfig(paths=(tmp_path,)).build().documents())


def test_skipping_leaves_whole_files_out_and_counts_them(tmp_path):
    write_text(tmp_path, TEXTS)
    (tmp_path / "1a.txt").write_bytes(b"good\n" * 40_000 + b"\xff")
    corpus = TextCorpusConfig(paths=(tmp_path,), errors="skip").build()
    for _ in range(2):
        assert [d.text for d in corpus.documents()] == TEXTS
        assert corpus.left_out.count == 1
        assert "1a.txt" in corpus.left_out.reasons[0]


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert [d.text for d in TextCorpusConfig(paths=(tmp_path,)).build().documents()] == ["hello"]


def test_a_long_file_is_cut_at_line_ends(tmp_path):
    text = "".join(f"line {i} é\n" for i in range(150_000)) + "x" * 2_500
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    documents = list(TextCorpusConfig(paths=(tmp_path,), document_chars=1_000).build().documents())
    assert "".join(d.text for d in documents) == text
    assert max(len(d.text) for d in documents) == 1_000
    assert all(d.text.endswith("\n") for d in documents[:-3])
    assert [d.name for d in documents[:2]] == ["long.txt", "long.txt#2"]
    assert {split_of(d.key, 0.5) for d in documents} == {"train", "heldout"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a",}', "not JSON"),
        (b'["text"]', "holds list, not an object"),
        (b'{"text": 3}', "'text' holds int, not text"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": "\xe9"}', "byte 0xe9 at offset 10"),
        (b'{"text": ' + b"[" * 100_000, "nested too deep|not JSON"),
    ],
)
def test_a_bad_line_is_named_by_number_or_skipped(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n')
    with pytest.raises(InputError, match=rf"(?s)({message}).*line 3"):
        list(JsonlCorpusConfig(paths=(path,)).build().documents())
    corpus = JsonlCorpusConfig(paths=(path,), errors="skip").build()
    assert [(d.name, d.text) for d in corpus.documents()] == [("a.jsonl:1", "one"), ("a.jsonl:4", "two")]
    assert corpus.left_out.count == 1


def test_a_file_that_is_one_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("polyseme.corpora.jsonl.MAX_LINE_BYTES", 1000)
    (tmp_path / "a.jsonl").write_bytes(b"x" * 5000)
    with pytest.raises(InputError, match="longer than 1000 bytes"):
        list(JsonlCorpusConfig(paths=(tmp_path,)).build().documents())
    assert MAX_LINE_BYTES >= 2**20


def test_a_damaged_parquet_file_says_so(tmp_path):
    config = write_parquet(tmp_path, TEXTS)
    path = tmp_path / "a.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"not a Parquet file, or it is damaged.*a\.parquet"):
        list(config.build().documents())


def test_a_hub_name_needs_leave_to_download():
    with pytest.raises(InputError, match=r"downloads are off.*download = true"):
        list(HuggingFaceCorpusConfig(name="someone/something").build().documents())


def test_an_unknown_split_of_a_data_set_names_those_there_are(tmp_path):
    config = write_dataset(tmp_path, TEXTS).model_copy(update={"split": "trian"})
    with pytest.raises(InputError, match="did you mean 'train'"):
        list(config.build().documents())


def test_the_standard_library_is_there_with_stable_keys():
    documents = {d.name: d for _, d in zip(range(400), StdlibCorpusConfig().build().documents(), strict=False)}
    assert documents["argparse.py"].key == "stdlib:argparse.py"
    assert "class ArgumentParser" in documents["argparse.py"].text
    assert not any("site-packages" in name for name in documents)


def test_what_is_installed_beside_the_standard_library_is_left_out(tmp_path):
    for name in ("b.py", "a/c.py", "a/__pycache__/d.py", "site-packages/e.py", "a/dist-packages/f/g.py", "h.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    assert StdlibCorpus(tmp_path).files == [tmp_path / "a/c.py", tmp_path / "b.py"]


def test_a_folder_of_data_files_is_a_data_set_without_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data", TEXTS)
    config = HuggingFaceCorpusConfig(name=str(tmp_path / "data"))
    assert [d.text for d in config.build().documents()] == TEXTS
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="data set cannot be loaded"):
        list(config.model_copy(update={"name": str(tmp_path / "empty")}).build().documents())


@pytest.mark.parametrize(("kind", "package"), [("parquet", "pyarrow"), ("huggingface", "datasets")])
def test_a_missing_extra_says_how_to_install_it(tmp_path, monkeypatch, kind, package):
    import sys

    config = WRITERS[kind](tmp_path, TEXTS)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"need the package '{package}'.*polyseme\[data\]"):
        list(config.build().documents())


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "huggingface"])
def test_a_value_that_is_no_text_is_counted_when_skipped(tmp_path, kind):
    key = "field" if kind == "jsonl" else "column"
    config = WRITERS[kind](tmp_path, TEXTS).model_copy(update={key: "id", "errors": "skip"})
    if kind != "jsonl":  # a column's type is the table's, not a row's
        with pytest.raises(InputError, match="'id' holds int64"):
            list(config.build().documents())
        return
    corpus = config.build()
    assert list(corpus.documents()) == []
    assert corpus.left_out.count >= len(TEXTS)
