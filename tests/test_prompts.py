# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Reading prompts: every format, and what is wrong with a file."""

import io
import json
import tarfile

import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from disback_diffusers import UsageError
from disback_diffusers.data.prompts import load_prompts


TEXTS = ["a red cat, sitting on a mat", "naïve 猫", 'a "quoted" dog']


def write_tar(file, texts):
    """A WebDataset of an image, a .txt and a .json each."""
    with tarfile.open(file, "w") as archive:
        for i, text in enumerate(texts):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8)).save(picture, "png")
            contents = {
                "png": picture.getvalue(),
                "txt": text.encode(),
                "json": json.dumps({"caption": text}).encode(),
            }
            for suffix, content in contents.items():
                member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


DATA, COLUMN = Dataset.from_dict({"id": [1, 2, 3], "caption": TEXTS}), "caption"
ROWS = [{"id": i, COLUMN: text} for i, text in enumerate(TEXTS)]
WRITERS = {
    "txt": lambda file: file.write_bytes("\r\n".join(["\ufeff", *TEXTS, ""]).encode()),
    "TXT": lambda file: file.write_text("\n".join(TEXTS)),
    "jsonl": lambda file: file.write_text("\n".join(map(json.dumps, ROWS))),
    "json": lambda file: file.write_text(json.dumps(ROWS, indent=1)),
    "list.json": lambda file: file.write_text(json.dumps(TEXTS)),
    "columns.json": lambda file: file.write_text(json.dumps({COLUMN: TEXTS})),
    "lines.json": lambda file: file.write_text("\n".join(map(json.dumps, ROWS))),
    "csv": lambda file: DATA.to_csv(file, index=False),
    "CSV": lambda file: DATA.to_csv(file, index=False),
    "tsv": lambda file: DATA.to_csv(file, index=False, sep="\t"),
    "parquet": lambda file: DATA.to_parquet(file),
    "tar": lambda file: write_tar(file, TEXTS),
    "saved": lambda file: DATA.save_to_disk(file),
    "saved dict": lambda file: DatasetDict({"test": DATA.select([0]), "train": DATA}).save_to_disk(file),
    "parquet folder": lambda file: (file.mkdir(), DATA.to_parquet(file / "train-00000-of-00001.parquet")),
    "tar folder": lambda file: (file.mkdir(), write_tar(file / "00000.tar", TEXTS)),
}


def write(folder, kind):
    """The texts in one format; returns what --prompt_dataset takes."""
    WRITERS[kind](folder / f"p.{kind}")
    return str(folder / f"p.{kind}")


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format(tmp_path, kind):
    assert load_prompts(write(tmp_path, kind), COLUMN) == TEXTS


FOLDERS = [
    (
        {"a.csv": "text\na red cat, sitting on a mat\na dog\n"},
        "a.csv has 2 values in row 1 (line 2) for 1 columns: quote",
    ),
    ({"data/train/a.csv": "text,text\na,b\n"}, "a.csv has more than one column 'text'"),
    ({"a.jsonl": '{"text": "b", "text": "c"}\n'}, "a.jsonl has more than one 'text' in row 1"),
    ({"test/a.csv": "text\na\n"}, "files of the splits test, but none of train"),
]


@pytest.mark.parametrize("files, message", FOLDERS)
def test_files_in_a_folder_are_read_as_files(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_text(content)
    with pytest.raises(UsageError) as raised:
        load_prompts(str(tmp_path / "d"))
    assert message in str(raised.value) and str(raised.value).startswith(f"--prompt_dataset {tmp_path / 'd'}")


def test_a_folder_of_files(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("id,text\n1,NA\n2,null\n")
    (tmp_path / "b.csv").write_text('text\n"a cat, black"\n')
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n')
    assert load_prompts(str(tmp_path)) == ["NA", "null", "a cat, black"]
    assert "1 file(s) of another kind are left out, such as c.jsonl" in caplog.text


def write_samples(file, samples):
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as archive:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_samples_of_a_tar_need_not_be_alike(tmp_path, caplog):
    """Captions as .txt or as a key of .json, pictures missing or broken, samples of the same name in two folders."""
    samples = {
        "x/1.json": b'{"text": "a", "caption": "A"}',
        "x/1.jpg": b"no picture",
        "y/1.TXT": b"b",
        "2.jpg": b"",
        "./3.txt": b"c",
        ".hidden": b"",
    }
    write_samples(tmp_path / "s.tar", samples)
    assert load_prompts(str(tmp_path / "s.tar")) == ["a", "b", "c"]
    assert "1 of 4 rows have no prompt" in caplog.text
    assert load_prompts(str(tmp_path / "s.tar"), "caption") == ["A"]
    with pytest.raises(UsageError, match=r"no column 'nothing' \(it has TXT, caption, jpg, json, text, txt\)"):
        load_prompts(str(tmp_path / "s.tar"), "nothing")


def test_a_source_of_another_type():
    for source in (None, "", 5):
        with pytest.raises(UsageError, match="--prompt_dataset must be a .txt"):
            load_prompts(source)


def test_the_text_files_of_a_tar(tmp_path):
    assert load_prompts(write(tmp_path, "tar")) == TEXTS
    with pytest.raises(UsageError, match="no column 'nothing'"):
        load_prompts(write(tmp_path, "tar"), "nothing")


def test_the_home_folder_and_the_embedded_prompts(tmp_path, monkeypatch):
    write(tmp_path, "txt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_prompts("~/p.txt") == TEXTS
    assert load_prompts("embedded")[0] == "grinning face"


@pytest.mark.parametrize(
    "name, content",
    [
        ("n.jsonl", '{"text": "a"}\n{"text": null}\n{"text": " "}\n{"text": "b"}'),
        ("n.csv", "id,text\n1,a\n2\n3,\n4,b\n"),
        ("n.json", '["a", null, "", "b"]'),
    ],
)
def test_rows_without_a_prompt_are_left_out_and_counted(tmp_path, caplog, name, content):
    (tmp_path / name).write_text(content)
    assert load_prompts(str(tmp_path / name)) == ["a", "b"]
    assert f"{name}: 2 of 4 rows have no prompt and are left out." in caplog.text


def test_null_in_a_parquet_file(tmp_path, caplog):
    for data in ({"text": ["a", None, "b"]}, {"text": ["a", "", "b"]}):
        Dataset.from_dict(data).to_parquet(tmp_path / "n.parquet")
        assert load_prompts(str(tmp_path / "n.parquet")) == ["a", "b"]
        assert "1 of 3 rows" in caplog.text
        caplog.clear()


WRONG = [
    ("c.csv", "text\na cat\na red cat, on a mat\n", "has 2 values in row 2 (line 3) for 1 columns: quote"),
    ("c.csv", 'id,text\n1,"two\nlines"\n2,a cat, oil\n', "3 values in row 2 (line 4) for 2 columns: quote"),
    ("c.tsv", "id\ttext\n1\ta\tb\n", "3 values in row 1 (line 2) for 2 columns: quote a text that has a tab"),
    ("c.csv", "text,text\na,b\n", "more than one column 'text' (it has text, text)"),
    ("c.csv", "caption\na\n", "no column 'text' (it has caption): set --caption_column"),
    ("c.csv", "text;id\na;1\n", "separated by ';', not ','"),
    ("c.csv", 'text\n"a cat\n', "no readable CSV file"),
    ("c.csv", "", "holds no prompt: it is empty"),
    ("c.csv", "text\n", "holds no prompt: it is empty"),
    ("p.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "no column 'text' in row 2 (it has txt)"),
    ("p.jsonl", '{"text": "a"}\n{"text": 3}\n', "column 'text' is no text in row 2"),
    ("p.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n', "more than one 'text' in row 2"),
    ("p.json", '[{"text": "b", "text": "c"}]', "more than one 'text' in row 1"),
    ("p.jsonl", '{"text": "a"}\n["b"]\n', "no column 'text' in row 2 (it is no object)"),
    ("p.jsonl", '{"text": "a"}\n{"text": \n', "no JSON in line 2"),
    ("p.jsonl", '{"text": "a \\ud83d cat"}\n', r"row 1 has \ud83d, which is half a character (a lone surrogate)"),
    ("p.jsonl", '{"text": "a\\u0000b"}\n', "zero byte in row 1"),
    ("p.jsonl", "", "holds no prompt: it is empty"),
    ("p.json", '{"a": ', "is no JSON: Expecting value in line 1"),
    ("p.json", '{"a": 1}', "must be a list of texts"),
    ("p.txt", "\n \n", "holds no prompt"),
    ("p.parquet", "not parquet", "no readable parquet file"),
    ("p.xlsx", "x", "expected a .txt, .jsonl, .json, .csv, .tsv, .parquet or .tar file"),
    ("p.tar", "x", "cannot be"),
    ("p.json", '{"text": ["a"], "text": ["b"]}', "more than one 'text'"),
    ("p.json", "[" * 100_000, "is no JSON: it is nested too deeply"),
    ("p.jsonl", '{"id": ' + "9" * 5000 + ', "text": "a"}', "no JSON in line 1: Exceeds the limit"),
]


@pytest.mark.parametrize("name, content, message", WRONG, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(WRONG)])
def test_what_is_wrong_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as raised:
        load_prompts(str(tmp_path / name))
    assert message in str(raised.value) and str(raised.value).startswith(f"--prompt_dataset {tmp_path / name}")
    assert "\n" not in str(raised.value)


def test_an_empty_parquet_file_is_said_to_be_empty(tmp_path):
    import pyarrow
    import pyarrow.parquet

    for kind in (pyarrow.string(), pyarrow.null()):
        pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], kind)}), tmp_path / "z.parquet")
        with pytest.raises(UsageError, match="z.parquet holds no prompt: it is empty"):
            load_prompts(str(tmp_path / "z.parquet"))


def test_a_parquet_file_with_a_column_twice(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="more than one column 'text'"):
        load_prompts(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize("name", ["missing.txt", "missing.parquet", "./missing", "a/b/c", "~/missing.csv"])
def test_a_missing_file(name):
    with pytest.raises(UsageError, match="No such file or folder"):
        load_prompts(name)


def test_a_saved_dataset_without_a_training_split(tmp_path):
    data = Dataset.from_dict({"text": ["a"]})
    DatasetDict({"one": data, "two": data}).save_to_disk(tmp_path / "d")
    with pytest.raises(UsageError, match="has the splits one, two, but no train"):
        load_prompts(str(tmp_path / "d"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty cannot be loaded"):
        load_prompts(str(tmp_path / "empty"))
