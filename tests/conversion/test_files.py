"""The files of a checkpoint that count for its identity."""

from conversion.files import read_files
from tests.support.checkpoints import write_bert, write_json


def names(directory):
    return {str(file.relative_to(directory)) for file in read_files(directory)}


def test_templates_of_a_chat_count(tmp_path):
    source = write_bert(tmp_path / "source")
    before = names(source)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    assert names(source) - before == {"additional_chat_templates/rag.jinja"}


def test_weights_beside_safetensors_count_only_if_they_are_read(tmp_path):
    source = write_bert(tmp_path / "source")
    write_json(source / "adapter_config.json", {})
    for name in ("pytorch_model.bin", "adapter_model.bin", "optimizer.bin"):
        (source / name).write_bytes(b"")
    assert {name for name in names(source) if name.endswith(".bin")} == {"adapter_model.bin"}
