"""The command line as a person meets it: results, and one clear sentence for every fault."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from transformers import BertConfig, GPT2Config, GPT2Model

import bipft_compress
from bipft_compress import load
from bipft_compress.checkpoint.record import Record, write_record

RECIPE = {
    "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
    "text": {"sequence_length": 24, "shortest": 4},
    "objective": {"hidden_states": 1.0},
    "embeddings": {"subvector": 4},
    "training": {"max_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True},
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(f"ab cd ef gh a{c} b{c} c{c} ab ac ad" for c in "abcdefgh" * 5))
    return path


def _spearman(directory, rows):
    """Rank correlation of the scores with cosines of mean hidden states, one text at a time."""
    model, tokenizer, _ = load(directory)
    with torch.no_grad():
        cosines = [
            torch.cosine_similarity(
                *(model(**tokenizer(text, return_tensors="pt"))[0][0].mean(0) for text in texts),
                dim=0,
            )
            for *texts, _ in rows
        ]
    return spearmanr([score for *_, score in rows], cosines).statistic


def test_run_then_every_job_alone(call, make_checkpoint, recipe, corpus, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    rows = [
        ("ab cd", "ab cd", 5),
        ("ab cd", "ef gh", 1),
        ("aa bb", "aa bc", 3),
        ("ab", "ac ad ef", 2),
    ]
    lines = ["sentence1\tsentence2\tscore", *("\t".join(map(str, row)) for row in rows)]
    pairs.write_text("\n".join(lines))
    source, out = make_checkpoint("bert"), tmp_path / "run"
    code, text, errors = call(
        "run", source, "--recipe", recipe, "--corpus", corpus, "--out", out, "--data", pairs
    )
    assert code == 0, errors
    assert "report.html" in text
    made = json.loads((out / "report" / "report.json").read_text())
    assert made["operations"]["ratio"] > 1
    assert made["memory"]["full_precision_bytes"] > made["memory"]["compressed_bytes"]
    assert made["quality"]["sts_spearman"]
    assert len(made["layer_errors"]) == 2
    # A second time nothing is done again.
    stamp = (out / "pretrained" / "model.safetensors").stat().st_mtime_ns
    again = ["run", source, "--recipe", recipe, "--corpus", corpus, "--out", out]
    assert call(*again, "--data", pairs)[0] == 0
    code, _, errors = call(*again)
    assert code == 2
    assert "holds a run with another data: choose another --out" in errors.replace("\n", " ")
    assert (out / "pretrained" / "model.safetensors").stat().st_mtime_ns == stamp
    code, text, _ = call("evaluate", out / "pretrained", "--data", pairs, "--json")
    assert code == 0
    figures = json.loads(text)
    assert figures["compressed"] == pytest.approx(_spearman(out / "pretrained", rows))
    code, text, _ = call("report", out / "pretrained", "--out", tmp_path / "again", "--json")
    assert code == 0
    assert json.loads(text)["operations"]["ratio"] == made["operations"]["ratio"]
    packed = tmp_path / "packed"
    code, text, _ = call("pack", out / "pretrained", "--out", packed)
    assert code == 0
    assert all(word in text for word in ("full precision", "packed, the whole file", "smaller"))
    assert str(packed) in text.replace("\n", "")
    assert (packed / "report.html").is_file()
    assert "pack" in json.loads((packed / "report.json").read_text())["provenance"]
    code, text, _ = call("evaluate", packed, "--data", pairs, "--teacher", source, "--json")
    assert code == 0
    assert json.loads(text) == pytest.approx(figures, abs=1e-4)
    code, text, _ = call("report", packed, "--out", tmp_path / "of-packed", "--json")
    assert code == 0
    found = json.loads(text)
    assert found["memory"] == made["memory"]
    assert found["quality"]["sts_spearman"] == pytest.approx(figures, abs=1e-4)
    code, text, _ = call("pack", out / "pretrained", "--out", packed, "--overwrite", "--json")
    assert code == 0
    assert json.loads(text)["packed_bytes"] == (packed / "model.safetensors").stat().st_size


def test_embedding_tasks(call, make_checkpoint, recipe, tmp_path):
    binary = tmp_path / "binary"
    assert call("compress", make_checkpoint("bert"), "--recipe", recipe, "--out", binary)[0] == 0
    sts, topics, beir = (tmp_path / name for name in ("sts", "topics", "beir"))
    for folder in (sts, topics, beir):
        folder.mkdir()
    pairs = "sentence1\tsentence2\tscore\nab cd\tab cd\t5\nab cd\tef gh\t1\naa bb\taa bc\t3\n"
    for name in ("one.tsv", "two.tsv"):
        (sts / name).write_text(pairs)
    for name in ("train.csv", "test.csv"):
        (topics / name).write_text("question,answer\nab cd,x\nef gh,y\naa bb,x\n")
    for name in ("corpus", "queries"):
        (beir / f"{name}.jsonl").write_text(
            "".join(f'{{"_id": "{text[0]}", "text": "{text}"}}\n' for text in ("ab cd", "ef gh"))
        )
    (beir / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\na\ta\t1\ne\te\t1\n")
    columns = ["--text-column", "question", "--label-column", "answer"]
    spearman = ["sts_spearman_one", "sts_spearman_two", "sts_spearman_mean"]
    quality = {}
    for task, data, more, measures in (
        ("sts", sts, [], spearman),
        ("retrieval", beir, [], ["beir_ndcg@10"]),
        ("classification", topics, columns, ["topics_probe_accuracy"]),
    ):
        arguments = ["evaluate", binary, "--task", task, "--data", data, *more]
        code, text, errors = call(*arguments, "--json")
        assert code == 0, errors
        figures = json.loads(text)
        assert list(figures) == measures
        quality |= figures
        code, text, _ = call(*arguments)
        assert code == 0
        shown = {line.split()[1]: line.split()[3::2] for line in text.splitlines() if "_" in line}
        for name, values in figures.items():
            both = (values["full_precision"], values["compressed"])
            assert shown[name][:2] == [f"{value:.4f}" for value in both]
    # Every text of the queries is in the corpus.
    assert quality["beir_ndcg@10"] == {"full_precision": 1, "compressed": 1}
    assert Record.read(binary).quality == quality
    code, text, _ = call("report", binary, "--out", tmp_path / "r", "--json")
    assert code == 0
    reported = json.loads(text)["quality"]
    assert {name: reported[name]["compressed"] for name in quality} == {
        name: values["compressed"] for name, values in quality.items()
    }


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("text,more,y\n" + "ab cd,ef,good\ncd ab,gh,bad\n" * 8)
    return path


OWN = ["--task", "custom", "--text-column", "text", "--label-column", "y"]


def test_finetune_and_evaluate(call, make_checkpoint, recipe, table, tmp_path):
    source, teacher, binary = make_checkpoint("bert"), tmp_path / "teacher", tmp_path / "binary"
    own = [*OWN, "--text-pair-column", "more", "--data", table]
    code, text, errors = call(
        "finetune", source, *own, "--out", teacher, "--recipe", recipe, "--steps", 2
    )
    assert code == 0, errors
    assert "accuracy" in text
    assert call("compress", source, "--recipe", recipe, "--out", binary)[0] == 0
    code, text, errors = call(
        "finetune", binary, *own, "--out", tmp_path / "o", "--teacher", teacher, "--steps", 2
    )
    assert code == 0, errors
    assert "teacher" in text
    code, text, _ = call("evaluate", tmp_path / "o", *own, "--teacher", teacher, "--json")
    assert code == 0
    figures = json.loads(text)["custom_accuracy"]
    assert figures.keys() == {"compressed", "full_precision"}
    code, text, _ = call("report", tmp_path / "o", "--out", tmp_path / "r", "--json")
    assert json.loads(text)["quality"]["custom_accuracy"]["compressed"] == figures["compressed"]
    code, text, errors = call(
        "finetune", binary, *own, "--out", tmp_path / "lora", "--lora", 2, "--steps", 2
    )
    assert code == 0, errors
    assert "Adapter: 0.0" in text
    code, text, _ = call("evaluate", tmp_path / "lora", *own)
    assert code == 0
    assert "custom_accuracy" in text


def test_report_from_a_config_alone(call, tmp_path):
    config = tmp_path / "bert-base.json"
    config.write_text(BertConfig().to_json_string())
    code, text, _ = call(
        "report", "--config", config, "--recipe", "default", "--out", tmp_path / "r", "--json"
    )
    assert code == 0
    made = json.loads(text)
    assert round(made["operations"]["full_precision"] / 1e9, 1) == 22.5
    assert round(made["operations"]["compressed"] / 1e9, 1) == 0.4
    assert made["operations"]["ratio"] >= 56
    assert made["memory"]["ratio"] >= 28


def test_report_of_what_is_not_made_yet(call, make_checkpoint, recipe, tmp_path):
    """A checkpoint in full precision is counted as its configuration alone."""
    source = make_checkpoint("bert", "ForMaskedLM")
    made = {}
    for name, arguments in (("a", [source]), ("b", ["--config", source / "config.json"])):
        arguments += ["--recipe", recipe, "--out", tmp_path / name, "--json"]
        code, text, err = call("report", *arguments)
        assert code == 0, err
        made[name] = json.loads(text)
    assert made["a"]["model"]["checkpoint"] == source.name
    assert made["a"]["operations"] == made["b"]["operations"]
    assert made["a"]["memory"] == made["b"]["memory"]


def test_version_and_short_help(call):
    code, text, _ = call("--version")
    assert (code, text.split()) == (0, ["bipft-compress", bipft_compress.__version__])
    for arguments in (["-h"], ["compress", "-h"]):
        code, text, _ = call(*arguments)
        assert code == 0
        assert "Usage" in text


def test_what_is_not_there_is_told_before_torch_is_imported(tmp_path):
    code = (
        "import sys, bipft_compress.cli as cli\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    for name, says in (
        (tmp_path / "nope", "There is no file or directory"),
        ("nobody/nothing", "HF_HUB_OFFLINE is set"),
        ("no such name", "check its spelling"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, "compress", name, "--out", tmp_path / "o"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert says in " ".join(done.stderr.split())


def test_artefacts_name_no_directory_of_the_machine(
    call, write_checkpoint, recipe, corpus, tmp_path
):
    home = tmp_path / "home-of-someone"
    write_checkpoint(home / "original")
    code, _, err = call(
        "compress", home / "original", "--recipe", recipe, "--calibration", corpus,
        "--out", home / "binary",
    )  # fmt: skip
    assert code == 0, err
    code, _, err = call("pack", home / "binary", "--out", home / "packed")
    assert code == 0, err
    for path in (home / "packed").rglob("*"):
        if path.is_file():
            assert b"home-of-someone" not in path.read_bytes(), path
            assert str(tmp_path).encode() not in path.read_bytes(), path
    commands = json.loads((home / "packed/report.json").read_text())["provenance"]
    assert commands["compress"]["command"].startswith("bipft-compress compress original --recipe")
    # The training checkpoint still finds its original; the artefact's users name theirs.
    data = tmp_path / "pairs.tsv"
    data.write_text("sentence1\tsentence2\tscore\nab\tcd\t1\nef\tgh\t2\nab\tab\t3\n")
    assert call("evaluate", home / "binary", "--data", data)[0] == 0
    code, _, err = call("evaluate", home / "packed", "--data", data)
    assert code == 2
    assert "no file or directory ./original" in " ".join(err.split())
    assert "--teacher" in err
    code, _, err = call("evaluate", home / "packed", "--data", data, "--teacher", home / "original")
    assert code == 0, err


def test_tiny_text_is_enough_or_told(call, make_checkpoint, recipe, tmp_path):
    text = tmp_path / "tiny.txt"
    text.write_text("ab cd.")
    source = make_checkpoint("bert")
    arguments = ["compress", source, "--recipe", recipe, "--calibration", text]
    code, _, err = call(*arguments, "--rank", 1, "--out", tmp_path / "a")
    assert code == 0, err
    code, _, err = call(*arguments, "--rank", 8, "--out", tmp_path / "b")
    assert code == 2
    assert "tokens, too few for the rank of" in " ".join(err.split())


def test_families_are_listed(call):
    code, text, _ = call("families")
    assert code == 0
    for name in ("bert", "mpnet", "deberta-v2", "modernbert", "mobilebert", "eurobert", "xmod"):
        assert f" {name} " in text
    assert "disentangled positions" in text.replace("\n", " ")


def test_recipes_are_listed(call):
    code, text, _ = call("recipes")
    assert code == 0
    assert "default" in text
    assert "demo" in text


@pytest.mark.parametrize(
    "command",
    [
        "compress",
        "pretrain",
        "finetune",
        "pack",
        "evaluate",
        "benchmark",
        "report",
        "run",
        "recipes",
    ],
)
def test_help_shows_an_example(call, command):
    code, text, _ = call(command, "--help")
    assert code == 0
    assert "Example" in text
    assert f"bipft-compress {command}" in " ".join(text.split())


def test_help_starts_without_torch():
    code = "import sys, bipft_compress.cli; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestFaults:
    """Exit code 2, one sentence, and nothing written."""

    @pytest.fixture
    def fails(self, call, tmp_path):
        def check(*arguments, says):
            before = sorted(tmp_path.rglob("*"))
            code, _, err = call(*arguments)
            assert code == 2, err
            sentence = " ".join(err.split())
            assert sentence.startswith("Error: ")
            assert "Traceback" not in err
            assert says in sentence
            assert sorted(tmp_path.rglob("*")) == before

        return check

    def test_gpt2(self, fails, tmp_path):
        config = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20)
        GPT2Model(config).save_pretrained(tmp_path / "gpt2")
        fails(
            "compress", tmp_path / "gpt2", "--out", tmp_path / "o", says="'gpt2' is not supported"
        )

    def test_no_weights(self, fails, make_checkpoint, tmp_path):
        source = make_checkpoint("bert")
        (source / "model.safetensors").unlink()
        fails("compress", source, "--out", tmp_path / "o", says="holds no weights")

    def test_truncated_weights(self, fails, make_checkpoint, tmp_path):
        source = make_checkpoint("bert")
        file = source / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        fails("compress", source, "--out", tmp_path / "o", says="truncated or damaged")

    def test_unknown_recipe_key(self, fails, make_checkpoint, tmp_path):
        recipe = tmp_path / "r.yaml"
        recipe.write_text("estimators: {rnk: 3}")
        fails(
            "compress", make_checkpoint("bert"), "--recipe", recipe, "--out", tmp_path / "o",
            says="unknown key 'estimators.rnk'",
        )  # fmt: skip

    def test_rank_larger_than_the_layer(self, fails, make_checkpoint, tmp_path, corpus):
        fails(
            "compress", make_checkpoint("bert"), "--rank", 99, "--out", tmp_path / "o",
            "--calibration", corpus, says="= 99 is larger than",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--target-memory", 0.5], "must be above 1"),
            (["--target-operations", 1], "must be above 1"),
            (["--target-latency-ms", 0], "milliseconds above 0"),
            (["--keep", 1.5], "above 0 and at most 1"),
            (["--keep", 0.9, "--target-memory", 14], "not both"),
            (["--target-memory", 14, "--rank", 2], "--rank fixes what a target"),
            (["--data", "pairs.tsv"], "what --keep is measured on"),
            (["--target-memory", 14, "--recipe", "bibert"], "attention: boolean"),
        ],
    )
    def test_budgets_that_make_no_sense(self, fails, make_checkpoint, tmp_path, options, says):
        fails("compress", make_checkpoint("bert"), *options, "--out", tmp_path / "o", says=says)

    @pytest.mark.parametrize(
        ("content", "says"),
        [(b"  \n\n ", "holds no text"), (b"\x00\xff\xfe junk", "is not UTF-8 text")],
    )
    def test_corpus_without_text(self, fails, make_checkpoint, recipe, tmp_path, content, says):
        bad = tmp_path / "bad.txt"
        bad.write_bytes(content)
        fails(
            "compress", make_checkpoint("bert"), "--recipe", recipe, "--calibration", bad,
            "--out", tmp_path / "o", says=says,
        )  # fmt: skip

    def test_output_exists(self, fails, make_checkpoint, tmp_path):
        (tmp_path / "o").mkdir()
        (tmp_path / "o" / "mine").write_text("precious")
        fails("compress", make_checkpoint("bert"), "--out", tmp_path / "o", says="already exists")

    def test_resume_with_nothing(self, fails, make_checkpoint, tmp_path, corpus):
        source = make_checkpoint("bert")
        fails(
            "pretrain", source, "--corpus", corpus, "--out", tmp_path / "o", "--resume",
            says="nothing to resume",
        )  # fmt: skip

    def test_not_a_binary_checkpoint(self, fails, make_checkpoint, tmp_path, corpus):
        fails(
            "pretrain", make_checkpoint("bert"), "--corpus", corpus, "--out", tmp_path / "o",
            says="is not a binary checkpoint",
        )  # fmt: skip

    @pytest.fixture
    def packed(self, call, make_checkpoint, tmp_path, recipe):
        source, binary, packed = make_checkpoint("bert"), tmp_path / "b", tmp_path / "packed"
        assert call("compress", source, "--recipe", recipe, "--out", binary)[0] == 0
        assert call("pack", binary, "--out", packed)[0] == 0
        return packed

    def test_packed_twice(self, fails, packed, tmp_path):
        fails("pack", packed, "--out", tmp_path / "o", says="is packed: it runs, but cannot be")

    def test_packed_over_something(self, fails, packed, tmp_path):
        fails("pack", tmp_path / "b", "--out", packed, says="already exists")

    def test_packed_and_damaged(self, fails, packed, tmp_path):
        (tmp_path / "p.tsv").write_text("sentence1\tsentence2\tscore\nab\tcd\t1\nab\tab\t5\n")
        file = packed / "model.safetensors"
        file.write_bytes((2**60).to_bytes(8, "little") + file.read_bytes()[8:])
        fails("evaluate", packed, "--data", tmp_path / "p.tsv", says="cannot hold a header of")

    def test_a_number_that_16_bits_cannot_hold(self, fails, packed, tmp_path):
        path = tmp_path / "b" / "model.safetensors"
        state = load_file(path)
        state["encoder.layer.0.block.attention.query.bias"][0] = 1e5
        save_file(state, path)
        write_record(tmp_path / "b", Record.read(tmp_path / "b"))
        fails("pack", tmp_path / "b", "--out", tmp_path / "o", says="set kept.vectors to 32")

    def test_finetuning(self, fails, make_checkpoint, table, tmp_path, call):
        source, out = make_checkpoint("bert"), tmp_path / "o"
        for options, says in [
            (["--task", "sst3", "--data", table], "Unknown task 'sst3'"),
            (["--task", "sst2", "--data", tmp_path / "none"], "There is no directory"),
            (["--task", "custom", "--data", table], "needs --text-column and --label-column"),
            (["--task", "custom", "--data", table, "--text-column", "text"], "go together"),
            ([*OWN, "--data", tmp_path / "none.csv"], "There is no file"),
            ([*OWN, "--data", table, "--text-pair-column", "b"], "no column 'b' in row 1"),
            ([*OWN, "--data", table, "--regression"], "'good' is not a number"),
            ([*OWN, "--data", table, "--lora", 99], "--lora 99 is larger"),
            ([*OWN, "--data", table, "--teacher", source], "without a sequence classification"),
            ([*OWN, "--data", table, "--resume"], "nothing to resume"),
        ]:
            fails("finetune", source, *options, "--out", out, says=says)
        fails(
            "finetune", source, *OWN, "--data", table, "--out", source, says="is the input itself"
        )
        fails("evaluate", source, *OWN, "--data", table, says="without a sequence classification")

    def test_finetuning_what_is_packed(self, fails, packed, table, tmp_path):
        fails(
            "finetune", packed, *OWN, "--data", table, "--out", tmp_path / "o",
            says="is packed: it runs, but cannot be trained",
        )  # fmt: skip

    def test_pairs_without_scores(self, fails, tmp_path):
        (tmp_path / "p.tsv").write_text("sentence1\tsentence2\na\tb\n")
        fails("evaluate", tmp_path, "--data", tmp_path / "p.tsv", says="must have the columns")

    def test_embedding_tasks(self, fails, tmp_path):
        for options, says in [
            (["--task", "sts", "--data", tmp_path], "holds no sentence pairs"),
            (["--task", "sts", "--data", f"{tmp_path},a.tsv"], "holds no sentence pairs"),
            (["--task", "retrieval", "--data", tmp_path], "no data set in BEIR's layout"),
            (["--task", "classification", "--data", tmp_path], "holds no two tables"),
            (["--task", "classification", "--data", "a.csv,b.csv"], "There is no file a.csv"),
            (["--task", "retrieval", "--data", "a", "--regression"], "--regression do not go with"),
            (["--task", "retrieval", "--data", "a", "--text-column", "b"], "do not go with"),
        ]:
            fails("evaluate", tmp_path, *options, says=says)

    def test_a_weight_of_a_corpus(self, fails, make_checkpoint, recipe, tmp_path):
        fails(
            "compress", make_checkpoint("bert"), "--recipe", recipe,
            "--calibration", "builtin@0,a.txt",
            "--out", tmp_path / "o", says="write a positive number after the @ of 'builtin@0'",
        )  # fmt: skip


def test_fault_of_ours_is_exit_code_1(call, monkeypatch, capfd):
    from bipft_compress import recipe

    monkeypatch.setattr(recipe, "shipped_recipes", lambda: 1 / 0)
    code, _, err = call("recipes")
    assert code == 1
    assert "fault of bipft-compress (ZeroDivisionError)" in " ".join(err.split())


def test_public_names_are_callable_in_any_order():
    """`report` is a function, whatever was imported before it."""
    code = (
        "import bipft_compress.reporting, bipft_compress as b;"
        "assert all(callable(getattr(b, name)) for name in b.__all__)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
