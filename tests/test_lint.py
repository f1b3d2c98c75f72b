"""Nothing that must not be public passes the lint: each planted thing is named in one line, and clean files pass."""

import gzip
import io
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from r2anker_hf.publishing.lint import Machine, findings, refuse, refuse_pickles, this_machine
from r2anker_hf.records import InputError

TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ" + "abcdefgh"  # of the form alone: nobody's
MACHINE = Machine(paths=("/data/people/ann/project",), host="blackbird", secrets={"your Hub token": "s3cr3t-value"})
ROW = "where does the river meet the stone house at night"


def lint(folder, training=()):
    return findings(folder, MACHINE, training)


def plant(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def parquet(*texts):
    sink = io.BytesIO()
    pq.write_table(pa.table({"row": [{"ids": list(texts)}]}), sink, compression="zstd")
    return sink.getvalue()


def png(text):
    sink, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Comment", text, zip=True)
    Image.new("RGB", (2, 2)).save(sink, "PNG", pnginfo=info)
    return sink.getvalue()


PACKED = gzip.compress(TOKEN.encode(), mtime=0)  # a date would give each process another name of the test
FLIPPED = bytearray(gzip.compress(bytes(range(256)) * 9, mtime=0))
FLIPPED[10] = 0xFF  # the first byte of the compressed stream: zlib itself raises
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.mark.parametrize(
    "name, content, found",
    [
        ("README.md", f"login with {TOKEN}", "README.md: holds a Hugging Face token"),
        ("config.json", '{"key": "s3cr3t-value"}', "config.json: holds your Hub token"),
        ("eval/runs/a.trec.gz", PACKED, "eval/runs/a.trec.gz: holds a Hugging Face token"),
        ("corpus/a.parquet", parquet("text", TOKEN), "corpus/a.parquet: holds a Hugging Face token"),
        ("plots/a.png", png(TOKEN), "plots/a.png: holds a Hugging Face token"),
        ("config.json", '{"a": "AKIAABCDEFGHIJKLMNOP"}', "config.json: holds an AWS key"),
        ("config.json", '{"a": "/home/ann/model"}', "config.json: holds a local path, '/home/ann/model'"),
        ("README.md", "see (C:\\Users\\ann\\x)", "README.md: holds a local path, 'C:\\\\Users\\\\ann\\\\x'"),
        (
            "tokenizer.json",
            '{"a": "/data/people/ann/project"}',
            "tokenizer.json: holds a path of this machine, /data/people/ann/project",
        ),
        ("README.md", "made on blackbird.", "README.md: holds this machine's name, 'blackbird'"),
        ("weights.bin", b"\x00", "weights.bin: is a pickle"),
        ("model.safetensors", pickle.dumps({"a": 1}), "model.safetensors: is a pickle"),
        ("model.safetensors", b"PK\x03\x04 zip", "model.safetensors: is a pickle or an archive"),
        ("model.safetensors", b"nothing of the kind", "model.safetensors: is no safetensors file"),
        ("modeling.py", "import os", "modeling.py: is no file that is published"),
        ("config.json", '{"auto_map": {}}', "config.json: has auto_map"),
        ("config.json", "{", "config.json: is no JSON"),
        ("a.gz", b"plain", "a.gz: is no gzip file"),
        ("a.trec.gz", bytes(FLIPPED), "a.trec.gz: is no gzip file"),
        ("corpus/a.parquet", POINTER, "corpus/a.parquet: is no Parquet file"),
        ("plots/a.png", POINTER, "plots/a.png: is no PNG file"),
        ("config.json", "[" * 10**5, "config.json: is no JSON"),
        ("provenance.json", '{"x": "' + ROW.upper() + '?"}', "provenance.json: holds a training row, 'where does"),
    ],
)
def test_each_planted_thing_is_one_line(name, content, found, tmp_path):
    lines = lint(plant(tmp_path, name, content), ["too short", ROW])
    assert len(lines) == 1 and lines[0].startswith(found)
    assert TOKEN not in lines[0] and "s3cr3t" not in lines[0]
    with pytest.raises(InputError) as refused:
        refuse(lines)
    assert str(refused.value) == lines[0]


def test_what_only_looks_so_passes(tmp_path):
    plant(tmp_path, "README.md", f"https://host/home/page and hf_{'x' * 34}, in/tmp/x; sk-short; blackbirds")
    plant(tmp_path, "vocab.txt", "blackbird\n/home/ann\n")
    plant(tmp_path, "corpus/a.parquet", parquet("/home/user/.config is where blackbird sings", ROW))
    save_file({"a": np.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    plant(tmp_path, "eval/a.trec.gz", gzip.compress(b"q1 Q0 d1 1 2.0 x\n"))
    plant(tmp_path, "plots/a.png", png("nothing"))
    assert lint(tmp_path, [ROW]) == []


def test_a_quoted_passage_may_hold_an_example_of_a_path(tmp_path):
    plant(tmp_path, "README.md", "negative d1: open('/home/user/x') on blackbird")
    assert len(lint(tmp_path)) == 2 and findings(tmp_path, MACHINE, quoting=["README.md"]) == []
    plant(tmp_path, "README.md", f"negative d1: {TOKEN} in {MACHINE.paths[0]}/out")
    assert len(findings(tmp_path, MACHINE, quoting=["README.md"])) == 2


def test_a_token_across_the_border_of_two_pieces_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("r2anker_hf.publishing.lint._PIECE", 64)
    for start in range(20, 64, 7):
        assert len(lint(plant(tmp_path, "a.txt", " " * start + TOKEN + " " * 200))) == 1


@pytest.mark.parametrize("place", ["/data/ann/runs/bm25", "/out/nfcorpus/runs/bm25"])
def test_a_volume_that_jobs_mount_is_a_local_path(place, tmp_path):
    plant(tmp_path, "README.md", f"https://host{place} and me{place}")
    plant(tmp_path, "provenance.json", f'{{"scored": ["{place}"]}}')
    assert lint(tmp_path) == [f"provenance.json: holds a local path, '{place}'"]


def test_metadata_of_weights_is_read_as_a_configuration_is(tmp_path):
    save_file({"a": np.zeros(2)}, tmp_path / "model.safetensors", metadata={"from": "/home/ann/x"})
    assert lint(tmp_path) == ["model.safetensors: holds a local path, '/home/ann/x'"]


def test_links_are_no_files(tmp_path):
    (tmp_path / "README.md").symlink_to(tmp_path / "elsewhere")
    assert lint(tmp_path) == ["README.md: is a link"]


def test_a_damaged_file_still_tells_what_stands_in_it(tmp_path):
    lines = lint(plant(tmp_path, "a.parquet", POINTER + TOKEN))
    assert len(lines) == 2 and "a.parquet: holds a Hugging Face token" in lines


def test_in_files_that_nobody_published_only_pickles_are_looked_for(tmp_path):
    plant(tmp_path, "left/a.lock", "")
    plant(tmp_path, "left/b.metadata", pickle.dumps({}, protocol=4))
    (line,) = findings(tmp_path, MACHINE, besides=["left/a.lock", "left/b.metadata"])
    assert line.startswith("left/b.metadata: is a pickle") and len(lint(tmp_path)) == 2


def test_this_machine_knows_its_folders_and_not_common_names(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "vm.local")
    machine = this_machine(tmp_path)
    assert str(tmp_path.resolve()) in machine.paths and machine.host is None
    monkeypatch.setattr("socket.gethostname", lambda: "blackbird.example.org")
    assert this_machine().host == "blackbird"


def test_a_source_folder_with_a_pickle_is_refused(tmp_path):
    plant(tmp_path, "sub/training_args.bin", pickle.dumps({}))
    with pytest.raises(InputError, match=r"sub/training_args.bin: is a pickle .*safetensors, or remove it"):
        refuse_pickles(tmp_path)
