"""Small checkpoints in Hugging Face's and sentence-transformers' formats, written without torch."""

import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from conversion.convert import axes
from conversion.families.bert import BERT
from conversion.fields import Fields
from conversion.rules import invert
from tsjax.checkpoints.format import Metadata, save
from tsjax.checkpoints.routed import RouterConfig, save_routed
from tsjax.model.config import HeadConfig, ModelConfig, PoolingConfig
from tsjax.model.forward import weight_shapes

WORDS = (
    "the a of and to in is it was he for on are with as his they at be this from have or by one had not but what all"
)

# No size is a power of two, and the number of heads is odd.
SIZES = {
    "vocab_size": 101,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 50,
    "max_position_embeddings": 41,
    "type_vocab_size": 2,
}

# A config.json with the harmless fields that published checkpoints have.
BERT_CONFIG = {
    **SIZES,
    "_name_or_path": "somewhere/else",
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-12,
    "model_type": "bert",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": "4.36.0",
    "use_cache": True,
}


def tokenizer_json(lowercase=True):
    """Return a WordPiece tokenizer of a few words, all letters and all letters as continuations."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    tokens += [x for x in (*letters, *(f"##{x}" for x in letters), ".", ",") if x not in tokens]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    # Published tokenizers have truncation and padding settings, too.
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=7)
    return tokenizer.to_str()


def bert_weights(config, seed=0):
    """Return random weights by Hugging Face's names."""
    encoder = BERT.translate(Fields(config, "config.json"))
    rng = np.random.default_rng(seed)
    ours = {}
    for name, shape in weight_shapes(ModelConfig(encoder=encoder)).items():
        # Biases are not zero and scales are not one: otherwise a swap would go unseen.
        value = 0.2 * rng.standard_normal(shape).astype("f4") + (1 if name.endswith("scale") else 0)
        ours[name.removeprefix("encoder.")] = value.astype("f4")
    return invert(BERT.spellings[0].rules(encoder), encoder.num_layers, ours, axes(encoder))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_bert(path, *, seed=0, weights=None, **changes):
    """Write a Hugging Face directory; ``changes`` go into config.json."""
    config = {name: value for name, value in {**BERT_CONFIG, **changes}.items() if value is not ...}
    write_json(path / "config.json", config)
    save_file(bert_weights(config, seed) if weights is None else weights, path / "model.safetensors")
    (path / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    write_json(path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    return path


def write_sentence_transformers(path, *, new_names=False, pooling=None, heads=(), options=None, **changes):
    """Write a sentence-transformers directory of either generation.

    ``heads`` are pairs of a module's name and its config, with the weights under ``"weights"``.
    """
    write_bert(path, **changes)
    old = {
        name: f"sentence_transformers.models.{name}"
        for name in ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize")
    }
    new = {
        "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
        "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        "Dense": "sentence_transformers.base.modules.dense.Dense",
        "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
        "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    }
    types = new if new_names else old
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    for index, (kind, config) in enumerate(heads, start=2):
        folder = f"{index}_{kind}"
        modules.append((kind, folder))
        weights = config.pop("weights", None)
        write_json(path / folder / "config.json", config)
        if weights:
            save_file(weights, path / folder / "model.safetensors")
    listed = [
        {"idx": i, "name": str(i), "path": folder, "type": types[kind]} for i, (kind, folder) in enumerate(modules)
    ]
    write_json(path / "modules.json", listed)
    width = {**SIZES, **changes}["hidden_size"]
    if pooling is None:
        pooling = (
            {"embedding_dimension": width, "pooling_mode": "mean", "include_prompt": True}
            if new_names
            else {"word_embedding_dimension": width, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
        )
    write_json(path / "1_Pooling" / "config.json", pooling)
    write_json(path / "config_sentence_transformers.json", options or {})
    return path


def _ours(*, seed=0, kind="embedder", heads=(), mode="mean", **changes):
    """Return the arguments of `tsjax.checkpoints.format.save`: metadata, random weights, a tokenizer."""
    encoder = BERT.translate(Fields({**BERT_CONFIG, **changes}, "config.json"))
    model = ModelConfig(encoder=encoder, pooling=PoolingConfig(modes=(mode,)), heads=heads)
    rng = np.random.default_rng(seed)
    weights = {
        name: (0.2 * rng.standard_normal(shape) + name.endswith("scale")).astype("f4")
        for name, shape in weight_shapes(model).items()
    }
    scores = kind == "cross_encoder"
    metadata = Metadata(model=model, max_seq_length=encoder.max_length, kind=kind, token_types=scores)
    return metadata, weights, tokenizer_json()


def write_cross_encoder(path, **changes):
    """Write a tsjax checkpoint that scores pairs, with one label."""
    head = HeadConfig(kind="dense", in_features=SIZES["hidden_size"], out_features=1)
    save(path, *_ours(kind="cross_encoder", heads=(head,), mode="cls", **changes))
    return path


def write_routed(path, **changes):
    """Write a tsjax checkpoint with an encoder for queries and a deeper one for documents and everything else."""
    tasks = {"query": "query", "document": "document"}
    config = RouterConfig(routes={"query": "one", "document": "two"}, tasks=tasks, default_route="document")
    parts = [_ours(seed=1, num_hidden_layers=1, **changes), _ours(seed=2, num_hidden_layers=2, **changes)]
    save_routed(path, config, parts)
    return path
