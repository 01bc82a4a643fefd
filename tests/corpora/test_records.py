"""Records that hold token ids, chats or nested texts, lines that are no records, and tables packed to burst."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.core.errors import InputError
from polyseme.corpora import (
    HuggingFaceCorpusConfig,
    JsonlCorpusConfig,
    ParquetCorpusConfig,
    Windows,
    load_windows,
)
from tests.corpora.test_special import Told
from tests.corpora.tokenizers import TEXTS, byte_bpe, sentencepiece_bpe, wordpiece

CHAT = [{"role": "user", "content": "the river"}, {"role": "assistant", "content": "a stone"}]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)


def write_jsonl(folder: Path, rows: list[dict], column: str, **more):
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlCorpusConfig(paths=(folder,), field=column, **more)


def write_parquet(folder: Path, rows: list[dict], column: str, **more):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return ParquetCorpusConfig(paths=(folder,), column=column, **more)


def write_dataset(folder: Path, rows: list[dict], column: str, **more):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return HuggingFaceCorpusConfig(name=str(folder / "saved"), column=column, **more)


WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet, "huggingface": write_dataset}
formats = pytest.mark.parametrize("kind", WRITERS)


def windows_of(config, tokenizer, context: int = 64, reporter=None, **more) -> Windows:
    options = {"split": "train", "heldout_fraction": 0.0, "context": context, "reporter": reporter}
    return load_windows(config.build(), tokenizer, **options, **more)


def read(windows: Windows, document: int) -> list[int]:
    return windows.tokens[windows.document == document].tolist()


@formats
@pytest.mark.parametrize("make", [byte_bpe, sentencepiece_bpe, wordpiece])
@pytest.mark.parametrize("around", ["bare", "own", "padded"])
def test_token_ids_are_read_as_the_text_they_were_made_of(tmp_path, kind, make, around):
    tokenizer = make()
    rows = []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=around != "bare")["input_ids"]
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        rows.append({"input_ids": [*[pad] * 3, *ids, *[pad] * 5] if around == "padded" else ids, "text": text})
    given = windows_of(WRITERS[kind](tmp_path, rows, "input_ids"), tokenizer)
    made = windows_of(WRITERS[kind](tmp_path, rows, "text"), tokenizer)
    np.testing.assert_array_equal(given.tokens, made.tokens)
    np.testing.assert_array_equal(given.special, made.special)
    if make is byte_bpe:
        np.testing.assert_array_equal(given.n_bytes, made.n_bytes)


@formats
def test_token_ids_outside_the_vocabulary_are_refused_or_left_out(tmp_path, kind):
    tokenizer = byte_bpe()
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [5, len(tokenizer)]}, {"input_ids": [8, 9]}]
    config = WRITERS[kind](tmp_path, rows, "input_ids")
    with pytest.raises(InputError, match=rf"token id {len(tokenizer)} is outside the vocabulary.*which has"):
        windows_of(config, tokenizer)
    told = Told()
    windows = windows_of(config.model_copy(update={"errors": "skip"}), tokenizer, reporter=told)
    assert windows.tokens[~windows.special].tolist() == [5, 6, 7, 8, 9]
    assert any("left out 1" in line for line in told.lines)
    with pytest.raises(InputError, match=r"holds -1, which is no token id"):
        windows_of(WRITERS[kind](tmp_path, [{"input_ids": [3, -1]}], "input_ids"), tokenizer)


@formats
@pytest.mark.parametrize("special_tokens", ["parse", "text"])
def test_chats_are_written_by_the_tokenizers_template(tmp_path, kind, special_tokens):
    tokenizer = byte_bpe()
    tokenizer.chat_template = TEMPLATE
    config = WRITERS[kind](tmp_path, [{"messages": CHAT}, {"messages": CHAT[:1]}], "messages")
    windows = windows_of(config, tokenizer, special_tokens=special_tokens)
    for i, chat in enumerate((CHAT, CHAT[:1])):
        expected = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False))["input_ids"]
        assert read(windows, i) == expected  # one BOS, the template's
    marked = np.isin(windows.tokens, tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))
    assert marked.sum() == 6
    assert windows.special[marked].all()


@formats
def test_chats_are_read_without_a_template_too_and_that_is_said(tmp_path, kind):
    told = Told()
    windows = windows_of(WRITERS[kind](tmp_path, [{"messages": CHAT}] * 2, "messages"), byte_bpe(), reporter=told)
    assert byte_bpe().decode(windows.tokens[~windows.special]) == "the river\na stone" * 2
    assert any("no chat template, so 2 chats are read as the contents" in line for line in told.lines)


def test_a_template_that_fails_names_the_chat(tmp_path):
    tokenizer = byte_bpe()
    tokenizer.chat_template = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('users first') }}{% endif %}x"
    config = write_jsonl(tmp_path, [{"messages": CHAT}, {"messages": CHAT[::-1]}], "messages")
    with pytest.raises(InputError, match=r"template cannot write this chat \(users first\).*a\.jsonl:2"):
        windows_of(config, tokenizer)
    assert windows_of(config.model_copy(update={"errors": "skip"}), tokenizer).names == ("a.jsonl:1",)


@formats
def test_names_with_dots_lead_into_records(tmp_path, kind):
    rows = [{"data": {"text": text, "n": {"id": i, "deep": text}}, "other": 1} for i, text in enumerate(TEXTS)]
    for column in ("data.text", "data.n.deep"):
        config = WRITERS[kind](tmp_path, rows, column)
        assert [d.text for d in config.build().documents()] == TEXTS
    with pytest.raises(InputError, match=r"did you mean 'data\.text'"):
        list(WRITERS[kind](tmp_path, rows, "data.txt").build().documents())
    with pytest.raises(InputError, match=r"data\.text, data\.n\.id"):
        list(WRITERS[kind](tmp_path, rows, "data").build().documents())


@formats
def test_a_name_that_holds_a_dot_itself_comes_first(tmp_path, kind):
    config = WRITERS[kind](tmp_path, [{"data.text": "right"}], "data.text")
    assert [d.text for d in config.build().documents()] == ["right"]


@formats
def test_nulls_and_blanks_are_passed_over(tmp_path, kind):
    rows = [{"data": {"text": "a"}}, {"data": {"text": None}}, {"data": None}, {"data": {"text": " \n"}}]
    config = WRITERS[kind](tmp_path, [*rows, {"data": {"text": "b"}}], "data.text")
    assert [d.text for d in config.build().documents()] == ["a", "b"]
    lists = [{"ids": [1, 2]}, {"ids": []}, {"ids": None}]
    assert [d.text for d in WRITERS[kind](tmp_path, lists, "ids").build().documents()] == ["[1,2]"]


@formats
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", "b"], "'text' holds .*(str|string)"),
        ([1.5], "'text' holds .*(float|double)"),
        ([{"from": "human", "value": "x"}], "'text' holds .*from"),
        (True, "'text' holds bool"),
        ([True], "'text' holds .*bool"),
    ],
)
def test_what_no_document_is_made_of_is_refused_with_what_it_is(tmp_path, kind, value, message):
    with pytest.raises(InputError, match=message):
        list(WRITERS[kind](tmp_path, [{"text": value}], "text").build().documents())


@pytest.mark.parametrize(
    "kind", ["string_view", "large_string", "string", "dictionary", "binary", "binary_view", "large_binary"]
)
def test_every_kind_of_text_column_is_read(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = pa.array([*TEXTS, None])
    values = plain.dictionary_encode() if kind == "dictionary" else plain.cast(getattr(pa, kind)())
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    assert [d.text for d in ParquetCorpusConfig(paths=(tmp_path,)).build().documents()] == TEXTS


def test_bytes_that_are_no_text_are_named_by_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = pa.array([b"a", "é".encode("latin1"), b"c"], pa.binary())
    for i, column in enumerate((values, pa.Array.from_buffers(pa.string(), 3, values.buffers()))):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=r"not UTF-8: byte 0xe9.*row 2"):
            list(ParquetCorpusConfig(paths=(tmp_path,)).build().documents())
        skipping = ParquetCorpusConfig(paths=(tmp_path,), errors="skip").build()
        assert [d.text for d in skipping.documents()] == ["a", "c"], i


LINES = {
    "an integer of 5,000 digits": b'{"text": "x", "id": ' + b"9" * 5000 + b"}",
    "a long negative one": b'{"text": "x", "id": [-' + b"1" * 4400 + b"]}",
    "nested deep": b'{"text": "x", "id": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "objects nested deep": b'{"a": ' * 100_000 + b"1" + b"}" * 100_000,
    "a number": b"5",
    "null": b"null",
    "a string": b'"text"',
    "two objects": b'{"text": "a"}{"text": "b"}',
    "two keys": b'{"text": "a", "text": "b"}',
    "NaN": b'{"text": NaN}',
    "infinity": b'{"text": -Infinity}',
    "NUL bytes": b'{"text": "a' + b"\0" * 40,
    "cut off": b'{"text": "a',
    "single quotes": b"{'text': 'a'}",
    "latin-1": '{"text": "é"}'.encode("latin1"),
    "a lone surrogate": b'{"text": "\\ud83d"}',
    "another field": b'{"txt": "a"}',
    "a comma too many": b'{"text": "a",}',
    "a boolean": b'{"text": true}',
}


@pytest.mark.parametrize("what", LINES)
@pytest.mark.parametrize("errors", ["strict", "skip"])
def test_a_line_that_is_no_record_is_an_error_with_its_number_or_left_out(tmp_path, what, errors):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n' + LINES[what] + b'\n{"text": "two"}')
    corpus = JsonlCorpusConfig(paths=(path,), errors=errors).build()
    if errors == "strict":
        with pytest.raises(InputError, match=r"a\.jsonl, line 3\. Fix: "):
            list(corpus.documents())
        return
    assert [d.text for d in corpus.documents()] == ["one", "two"]
    assert corpus.left_out.count == 1
    assert "line 3" in corpus.left_out.reasons[0]


@pytest.mark.parametrize("errors", ["strict", "skip"])
@pytest.mark.parametrize("last", [False, True])
def test_a_line_too_long_to_hold_is_an_error_or_left_out(tmp_path, monkeypatch, errors, last):
    monkeypatch.setattr("polyseme.corpora.jsonl.MAX_LINE_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "' + b"x" * 5000 + (b"" if last else b'"}\n{"text": "two"}\n'))
    corpus = JsonlCorpusConfig(paths=(path,), errors=errors).build()
    if errors == "strict":
        with pytest.raises(InputError, match=r"longer than 1000 bytes.*line 2"):
            list(corpus.documents())
        return
    assert [(d.name, d.text) for d in corpus.documents()][1:] == ([] if last else [("a.jsonl:3", "two")])
    assert corpus.left_out.count == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"text": "a"}, {"text": "b"}]', r"one JSON array, not one object a line.*jq -c '\.\[\]'"),
        (b'[\n  {"text": "a"},\n  {"text": "b"}\n]\n', r"one JSON array.*jq"),
        (b'\xef\xbb\xbf[{"text": "a"},\n{"text": "b"}]', r"one JSON array.*jq"),
        (b'{\n  "text": "a"\n}\n', r"over several lines.*jq -c \."),
    ],
)
def test_other_json_gets_the_command_that_makes_lines_of_it(tmp_path, data, message):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=message):
        list(JsonlCorpusConfig(paths=(tmp_path,)).build().documents())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x", "y.z"]), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(json_values, st.sampled_from(["text", "text.x", "text.y.z", "text.role"]))
def test_any_json_is_a_document_or_an_input_error(tmp_path_factory, value, field):
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    path.write_text(json.dumps({"text": value}) + "\n")
    corpus = JsonlCorpusConfig(paths=(path,), field=field, errors="skip").build()
    documents = list(corpus.documents())
    assert len(documents) + corpus.left_out.count <= 1
    if documents:
        with contextlib.suppress(InputError):
            assert windows_of(JsonlCorpusConfig(paths=(path,), field=field), byte_bpe()).names == ("a.jsonl:1",)


BOMBS = """
import pyarrow as pa, pyarrow.parquet as pq, sys
big = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array(["a" * (4 << 20)]))
pq.write_table(pa.table({"text": big}), "dictionary.parquet", compression="zstd", dictionary_pagesize_limit=1 << 30)
kept = {"compression": "zstd", "use_dictionary": False}
pq.write_table(pa.table({"text": ["a" * (1 << 20)] * 70}), "delta.parquet", column_encoding="DELTA_BYTE_ARRAY", **kept)
pq.write_table(pa.table({"text": ["a" * (70 << 20)]}), "one.parquet", **kept)
pq.write_table(pa.table({"text": pa.nulls(12_000_000, pa.string())}), "nulls.parquet", compression="zstd")
ids = pa.ListArray.from_arrays(pa.array([0, 40_000_000], pa.int32()), pa.repeat(pa.scalar(7, pa.int16()), 40_000_000))
pq.write_table(pa.table({"text": ids}), "ids.parquet", compression="zstd")
"""
READ = """
import resource, sys
import pyarrow.parquet
from polyseme.core.errors import InputError
from polyseme.corpora import ParquetCorpusConfig
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        for document in ParquetCorpusConfig(paths=(name,)).build().documents():
            del document
        print(name, "was read")
    except InputError as error:
        print(name, error.what)
print("MiB", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_small_parquet_file_takes_little_memory_whatever_it_claims_to_hold(tmp_path):
    run = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "-c", BOMBS], **run)
    names = sorted(path.name for path in tmp_path.glob("*.parquet"))
    assert len(names) == 5
    assert max((tmp_path / name).stat().st_size for name in names) < 50_000
    out = subprocess.run([sys.executable, "-c", READ, *names], **run).stdout
    assert out.count("the column is packed beyond what is read") == 3
    assert out.count("the rows hold more than 200 times the file's own size") == 2
    assert float(out.split("MiB")[-1]) < 400  # without the bounds it is 2 GiB and more


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_damaged_parquet_file_is_an_input_error_wherever_the_damage_is(tmp_path, dictionary):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    rows = {"text": [f"text {i} " * 5 for i in range(60)], "ids": [[i, 2] for i in range(60)]}
    pq.write_table(pa.table(rows), path, compression="zstd", data_page_size=256, use_dictionary=dictionary)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = int(rng.choice([0, 127, 128, 255, rng.integers(256)]))
        path.write_bytes(data[: rng.integers(len(data))] if rng.random() < 0.1 else data)
        column = str(rng.choice(["text", "ids"]))
        with contextlib.suppress(InputError):
            list(ParquetCorpusConfig(paths=(path,), column=column).build().documents())


def test_a_compressed_arrow_file_is_refused_before_it_is_unpacked(tmp_path):
    import pyarrow as pa

    config = write_dataset(tmp_path, [{"text": "a"}], "text")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    table = pa.table({"text": ["a" * (8 << 20)]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(path, table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=r"Arrow file is compressed.*\.arrow"):
        list(config.build().documents())


@pytest.mark.parametrize(
    "state", ["5", "[]", "{}", "null", '{"_data_files": [{"filename": "../../x.arrow"}]}', "[" * 99999]
)
def test_a_broken_state_of_a_data_set_is_one_sentence(tmp_path, state):
    config = write_dataset(tmp_path, [{"text": "a"}], "text")
    (tmp_path / "saved" / "state.json").write_text(state)
    with pytest.raises(InputError, match=r"(cannot be loaded|outside the data set's folder).*Fix"):
        list(config.build().documents())


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(
    "where", ["https://example.org/a.txt", "../*.txt", "/etc/*.txt", "zip://a::https://example.org/a"]
)
def test_a_data_sets_card_leads_nowhere_else(tmp_path, where):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("x\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {where!r}\n---\n")
    with pytest.raises(InputError, match="names data outside its folder"):
        list(HuggingFaceCorpusConfig(name=str(folder)).build().documents())


@pytest.mark.usefixtures("_own_cache")
def test_a_folder_named_like_a_reader_is_read_as_a_folder(tmp_path, monkeypatch):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "a.jsonl").write_text('{"text": "a"}\n')
    monkeypatch.chdir(tmp_path)
    assert [d.text for d in HuggingFaceCorpusConfig(name="json").build().documents()] == ["a"]


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("name", ["data.py", "a.pkl", "a.tar", "a.toml", "a.xml"])
def test_a_folder_of_anything_but_tables_and_text_runs_nothing(tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_bytes(b"open('ran', 'w')\n")
    with pytest.raises(InputError, match=r"cannot be loaded|not as a table or as text"):
        list(HuggingFaceCorpusConfig(name=str(folder)).build().documents())
    assert not list(tmp_path.glob("**/ran"))
