import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import BERT_CONFIG, bert_weights, write_bert, write_json
from tsjax.cli.main import main
from tsjax.hub import resolve

DEMO = Path(__file__).parents[2] / "scripts" / "demo.jsonl"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_bert(tmp_path_factory.mktemp("model") / "source", max_position_embeddings=100))


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "tsjax", *map(str, arguments)], capture_output=True, check=False, **options
    )


def one_line(error):
    text = error.decode() if isinstance(error, bytes) else error
    assert text.startswith("tsjax: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text


def test_embed_gives_what_the_library_gives(tmp_path, model, capsys):
    assert main(["embed", str(DEMO), "-o", str(tmp_path / "v.npy"), "--model", model, "--temperature", "0.9"]) == 0
    texts = [json.loads(line)["text"] for line in DEMO.read_text(encoding="utf-8").splitlines()]
    embedder = tsjax.load(model, temperature=0.9)
    with pytest.warns(tsjax.TruncationWarning) as caught:
        expected = embedder.encode(texts)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)
    out, err = capsys.readouterr()
    assert out == ""
    cut = str(caught[0].message).split(" of ")[0]
    assert f"{cut} texts were cut at 100 tokens" in err
    assert "tokens/s" in err
    assert f"{embedder.statistics.tokens:,} tokens" in err


def test_several_files_become_one_in_order(tmp_path, model):
    (tmp_path / "a.txt").write_text("the\n\nof\n")
    (tmp_path / "b.csv").write_text("body,x\nwas,1\n")
    (tmp_path / "c.csv").write_text("body\nit\n")
    out = tmp_path / "v.jsonl"
    assert (
        main(
            [
                "embed",
                *(str(tmp_path / n) for n in ("b.csv", "c.csv")),
                "--column",
                "body",
                "-o",
                str(out),
                "--model",
                model,
            ]
        )
        == 0
    )
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["was", "it"]
    assert main(["embed", str(tmp_path / "a.txt"), "-o", str(out), "--model", model, "--overwrite"]) == 0
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["the", "", "of"]


def test_standard_input_to_standard_output_is_nothing_but_data(model):
    process = run("embed", "-", "-o", "-", "--model", model, input=b"the\nof\n")
    assert process.returncode == 0
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["the", "of"]
    np.testing.assert_array_equal(np.float32(rows[0]["embedding"]), tsjax.load(model).encode(["the", "of"])[0])


def test_options_reach_the_model(tmp_path, model):
    (tmp_path / "a.txt").write_text("the of\nwas it\nhe\n")
    embedder = tsjax.load(model)
    for name, (arguments, options) in {
        "a": (["--normalize", "--truncate-dim", "7"], {"normalize_embeddings": True, "truncate_dim": 7}),
        "b": (["--prompt", "it is "], {"prompt": "it is "}),
        "c": (["--precision", "ubinary"], {"precision": "ubinary"}),
        "d": (["--temperature", "[1, 0.5, 0.25]"], {"temperature": [1, 0.5, 0.25]}),
        "e": (
            ["--temperature", '{"value": 0.9, "by_length": {"law": "log", "reference_length": 8}}'],
            {"temperature": tsjax.Temperature(0.9, by_length=tsjax.LogLength(8))},
        ),
    }.items():
        out = tmp_path / f"{name}.npy"
        assert main(["embed", str(tmp_path / "a.txt"), "-o", str(out), "--model", model, *arguments]) == 0
        np.testing.assert_array_equal(np.load(out), embedder.encode(["the of", "was it", "he"], **options))


def test_an_empty_file_gives_an_empty_array(tmp_path, model):
    (tmp_path / "a.txt").write_text("")
    assert main(["embed", str(tmp_path / "a.txt"), "-o", str(tmp_path / "v.npy"), "--model", model]) == 0
    assert np.load(tmp_path / "v.npy").shape == (0, 36)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "missing.txt", "-o", "v.npy"], "tsjax: there is no file missing.txt\n"),
        (["collapse", "--texts", "missing.txt", "-o", "v"], "tsjax: there is no file missing.txt\n"),
        (["batch", "--input", "missing.txt", "--output", "v"], "tsjax: there is no file missing.txt\n"),
        (["batch", "--input", "missing*.txt", "--output", "v"], "tsjax: no file matches missing*.txt\n"),
        (["embed", "open.csv", "-o", "v.npy", "--model", "MODEL"], "tsjax batch lists such a row"),
        (["embed", "a.txt", "-o", "v.csv"], "suffix must be one of"),
        (["embed", "a.txt", "-o", "there.npy"], "there.npy exists already"),
        (["embed", "latin.txt", "-o", "v.npy", "--model", "MODEL"], "latin.txt, line 2: not UTF-8"),
        (["embed", "a.txt", "-o", "v.npy", "--model", "./nowhere"], "there is no directory ./nowhere"),
        (
            ["embed", "a.txt", "-o", "v.npy", "--model", "no/such-model"],
            "the network was not to be used",
        ),
        (["embed", "a.txt", "-o", "v.npy", "--model", "MODEL", "--temperature", "0"], "finite and > 0"),
        (["embed", "a.txt", "-o", "v.npy", "--model", "MODEL", "--temperature", "[1,2]"], "3 layers of 3 heads"),
        (["embed", "a.txt", "-o", "v.npy", "--model", "MODEL", "--prompt-name", "topic"], "no prompt named 'topic'"),
        (["embed", "a.txt", "-o", "a.txt/v.npy", "--model", "MODEL"], "cannot write a.txt/v.npy"),
        (["embed", "a.txt", "-o", "folder.npy", "--overwrite"], "folder.npy exists already"),
        (["embed", "a.txt", "-o", "v.npy", "--model", "~nobody-of-this-name/x"], "there is no directory"),
        (["embed", "a.txt", "-o", "v.npy", "--model", "x" * 5000], ""),
        (["embed", "-", "-", "-o", "v.npy", "--model", "MODEL"], "once only"),
        (["info", "./nowhere"], "there is no directory ./nowhere"),
        (["convert", "./nowhere", "out"], "there is no directory ./nowhere"),
        (["convert", "MODEL", "a.txt"], "a.txt exists already"),
        (["convert", "MODEL", "out", "--temperature", "[1, 2]"], "3 layers of 3 heads"),
    ],
)
def test_what_goes_wrong_is_one_line_and_status_2(tmp_path, model, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the\n")
    (tmp_path / "open.csv").write_text('id,text\n1,"an unclosed cell\n2,"of ""forests"": a text"\n')
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    (tmp_path / "there.npy").write_text("precious")
    (tmp_path / "folder.npy").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main([model if argument == "MODEL" else argument for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in one_line(err)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "there.npy").read_text() == "precious"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["embed", "a.txt"],
        ["embed", "a", "-o", "b.npy", "--temperature", "warm"],
        ["embed", "a", "-o", "b.npy", "--temperature", '{"scale": 1}'],
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk(tmp_path, model):
    """A limit on the size of files stands in for a full disk: writing fails in the middle."""
    (tmp_path / "a.txt").write_text("the of\n" * 2000)
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import tsjax; tsjax.load(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from tsjax.cli.main import main; sys.exit(main(sys.argv[2:]))"
    )
    arguments = ["embed", tmp_path / "a.txt", "-o", tmp_path / "v.npy", "--model", model]
    process = subprocess.run(
        [sys.executable, "-c", limited, model, *map(str, arguments)], capture_output=True, check=False
    )
    assert process.returncode == 2
    assert "cannot write" in one_line(process.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing(tmp_path, model, number, status):
    fifo = tmp_path / "texts"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "tsjax", "embed", "-", "-o", str(tmp_path / "v.npy"), "--model", model]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"the of\n" * 5000)
        process.stdin.flush()
        while not list(tmp_path.glob(".v.npy.*")):  # The output has been started.
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        # Standard input stays open: the command would wait forever for more of it.
        assert process.wait(timeout=60) == status
        error = process.stderr.read()
    assert "interrupted" in one_line(error)
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


# Cases in which a handler misses its signal: the signal arrives in another thread, as when the main thread is
# about to block; or the exception is raised in a callback that drops it.
LATE = """
import os, signal, sys, threading, time
from tsjax.cli.interrupts import Interrupts
Interrupts().install()
def send():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Thread(target=send, daemon=True).start()
sys.stdin.buffer.read()
"""
DROPPED = """
import os, signal, sys
from tsjax.cli.interrupts import Interrupts
Interrupts().install()
class Dropping:
    def __eq__(self, other):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 0)
        except BaseException:
            return False
class Unraisable:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 0)
(Dropping() == 1) if sys.argv[1] == "dropped" else Unraisable()
sys.stdin.buffer.read()
"""


@pytest.mark.parametrize(("code", "how"), [(LATE, ""), (DROPPED, "dropped"), (DROPPED, "unraisable")])
def test_no_signal_is_lost(code, how):
    command = [sys.executable, "-c", code, how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        status = process.wait(timeout=30)
        error = process.stderr.read().decode()
    assert status != 0
    assert error.count("Interrupted") == 1, error  # The traceback of an uncaught exception would repeat the word.


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["embed", "-", "-o", "-"], ["info"]])
def test_a_full_disk_under_standard_output(model, arguments):
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "tsjax", *arguments, *(["--model"] if arguments[0] == "embed" else []), model]
        process = subprocess.run(command, input=b"the\n", stdout=full, stderr=subprocess.PIPE, check=False)
    assert process.returncode == 2
    assert b"No space left" in process.stderr
    assert b"Traceback" not in process.stderr


@pytest.mark.slow
def test_standard_output_is_utf8_whatever_the_locale(model):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = run("embed", "-", "-o", "-", "--model", model, input="é\n".encode(), env=environment)
    assert json.loads(process.stdout.decode())["text"] == "é"


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(tmp_path, model):
    (tmp_path / "a.txt").write_text("the of\n" * 3000)
    command = f"{sys.executable} -m tsjax embed {tmp_path / 'a.txt'} -o - --model {model} | head -n 1"
    process = subprocess.run(command, shell=True, capture_output=True, check=False)
    assert json.loads(process.stdout)["text"] == "the of"
    assert b"Traceback" not in process.stderr
    assert b"rror" not in process.stderr


@pytest.mark.slow
def test_a_terminal_gets_a_progress_bar(tmp_path, model):
    (tmp_path / "a.txt").write_text("the of\n" * 50)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [
        sys.executable,
        "-m",
        "tsjax",
        "embed",
        str(tmp_path / "a.txt"),
        "-o",
        str(tmp_path / "v.npy"),
        "--model",
        model,
    ]
    with subprocess.Popen(command, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"50/50" in seen


def test_convert_and_info(tmp_path, model, capsys):
    out = tmp_path / "converted"
    assert main(["convert", model, str(out), "--temperature", "0.9"]) == 0
    assert "wrote" in capsys.readouterr().err
    assert main(["info", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "3 layers, 36 wide, 3 heads of 12",
        "pooling mean",
        "temperature 0.9",
        "100 tokens",
        "prompts none",
    ):
        assert expected in text
    assert main(["info", str(out), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["temperature"]["value"] == 0.9
    assert content["checkpoint_fingerprint"] in text
    assert content["parameters"] == sum(np.prod(w.shape) for w in _weights(out))
    assert main(["embed", str(DEMO), "-o", str(tmp_path / "v.npy"), "--model", str(out)]) == 0
    capsys.readouterr()
    damaged = bytearray((out / "model.safetensors").read_bytes())
    damaged[-3] ^= 1
    (out / "model.safetensors").write_bytes(damaged)
    assert main(["info", str(out)]) == 2
    assert "SHA-256" in one_line(capsys.readouterr().err)


def _weights(directory):
    from safetensors.numpy import load_file

    return load_file(directory / "model.safetensors").values()


def test_python_m_conversion_is_tsjax_convert(tmp_path, model):
    command = [sys.executable, "-m", "conversion", model, str(tmp_path / "a")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert main(["convert", model, str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()


def test_a_field_is_waved_through_by_name(tmp_path, capsys):
    source = write_bert(tmp_path / "source")
    write_json(source / "config.json", {**json.loads((source / "config.json").read_text()), "flux": 1})
    assert main(["info", str(source)]) == 2
    assert "pass --ignore-config-field flux" in one_line(capsys.readouterr().err)
    assert main(["info", str(source), "--ignore-config-field", "flux"]) == 0


@pytest.mark.parametrize("command", [[], ["embed"], ["convert"], ["info"], ["sweep"]])
def test_every_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert ("example: tsjax " in capsys.readouterr().out) == bool(command)


def test_export_folds_the_temperature_in(model, tmp_path, capsys):
    assert main(["export", str(model), str(tmp_path / "out"), "--temperature", "0.8"]) == 0
    assert "temperature 0.8 folded in" in capsys.readouterr().err
    texts = ["the cat", "what he had to be"]
    folded = tsjax.load(tmp_path / "out").encode(texts)
    np.testing.assert_allclose(folded, tsjax.load(model).encode(texts, temperature=0.8), rtol=0, atol=2e-5)
    assert main(["export", str(model), str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_info_lists_the_families(capsys):
    assert main(["info", "--families"]) == 0
    assert "ModernBERT" in capsys.readouterr().out
    assert main(["info", "--families", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["families"]) > 20


@pytest.mark.filterwarnings("always::tsjax.errors.AssumptionWarning")
def test_embedding_with_a_cross_encoder_is_said(tmp_path, capsys):
    labels = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "x"}}
    weights = bert_weights({**BERT_CONFIG, **labels})
    weights |= {"pooler.dense.weight": np.eye(36, dtype="f4"), "pooler.dense.bias": np.zeros(36, "f4")}
    weights |= {"classifier.weight": np.ones((1, 36), "f4"), "classifier.bias": np.zeros(1, "f4")}
    source = write_bert(tmp_path / "scorer", weights=weights, **labels)
    (tmp_path / "texts.txt").write_text("the\n")
    arguments = ["embed", str(tmp_path / "texts.txt"), "-o", str(tmp_path / "out.npy"), "--model", str(source)]
    assert main(arguments) == 0
    assert "its head is left out" in capsys.readouterr().err
    assert main([*arguments[:-1], str(resolve(source)), "--overwrite"]) == 2
    assert "scores of pairs of texts and no vectors" in capsys.readouterr().err
    assert main(["info", str(source)]) == 0
    assert "a cross-encoder" in capsys.readouterr().out
    scorer = tsjax.load(source)
    assert repr(scorer).startswith("CrossEncoder(")
    with pytest.raises(tsjax.InputError, match="truncate_dim has no meaning"):
        tsjax.load(source, truncate_dim=3)
    with pytest.raises(tsjax.CheckpointError, match="holds a cross-encoder"):
        tsjax.Embedder(tsjax.hub.resolve(source))


@pytest.mark.parametrize(
    ("arguments", "option", "meant"),
    [
        (["batch", "--input", "a.csv", "--ouput", "build/x"], "--ouput", "--output"),
        (["batch", "--input", "a.csv", "--output", "verify", "--temprature", "0.9"], "--temprature", "--temperature"),
        (["batch", "verify", "out", "--inputs=a.csv"], "--inputs", "--input"),
        (["embed", "a.txt", "--temperatur", "0.9"], "--temperatur", "--temperature"),
    ],
)
def test_a_misspelt_or_shortened_option_is_named_with_the_nearest(arguments, option, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"no option {option}; did you mean {meant}?" in capsys.readouterr().err
