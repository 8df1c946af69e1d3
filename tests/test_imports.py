"""Times at which packages are imported, each in a separate process."""

import json
import subprocess
import sys

import pytest

from tests.support.checkpoints import write_bert


def run(code, *arguments):
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_importing_tsjax_imports_nothing_heavy():
    heavy = json.loads(
        run(
            "import sys, json, tsjax; dir(tsjax); from tsjax.cli.main import main\n"
            "heavy = ('jax', 'flax', 'transformers', 'torch', 'numpy', 'tokenizers', 'psutil')\n"
            "print(json.dumps([name for name in heavy if name in sys.modules]))"
        )
    )
    assert heavy == []


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        import tsjax

        tsjax.nonsense  # noqa: B018


def test_converting_and_embedding_need_neither_transformers_nor_torch(tmp_path):
    source = write_bert(tmp_path / "source")
    out = run(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('transformers', 'torch', 'sentence_transformers'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import tsjax; from tsjax import hub; from pathlib import Path\n"
        "hub.convert_to(sys.argv[1], Path(sys.argv[2]))\n"
        "print(tsjax.load(sys.argv[2]).encode(['the', 'a']).shape)",
        source,
        tmp_path / "converted",
    )
    assert out.strip() == "(2, 36)"


def test_embedding_with_a_converted_checkpoint_does_not_import_conversion(tmp_path):
    from conversion.convert import convert

    convert(write_bert(tmp_path / "source"), tmp_path / "converted")
    out = run(
        "import sys, tsjax; tsjax.load(sys.argv[1]).encode(['the'])\n"
        "foreign = {'conversion', 'transformers', 'torch', 'huggingface_hub', 'scipy', 'pandas', 'pyarrow', 'tqdm'}\n"
        "foreign.add('psutil')\n"
        "print([name for name in sys.modules if name.split('.')[0] in foreign])",
        tmp_path / "converted",
    )
    assert out.strip() == "[]"
