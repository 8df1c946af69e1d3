"""Small checkpoints in the authors' forms of NomicBert, GTE, Jina v2 and v3: fields, names and packing.

The fields are those of the published config.json files, as far as public copies and quotations of them show them.
"""

import re
from dataclasses import dataclass, field, replace

from tests.support.checkpoints import tokenizer_json, write_json
from tests.support.families import SIZES, Case
from tests.support.lazy import lazy

JinaBert = lazy("tests.support.jina_v2_reference", "JinaBert")
save_file = lazy("safetensors.torch", "save_file")
torch = lazy("torch")


def remote(repository, **classes):
    """Return an ``auto_map``."""
    return {f"Auto{name}": f"{repository}--{target}" for name, target in classes.items()}


NOMIC_CONFIG = {
    "activation_function": "swiglu",
    "architectures": ["NomicBertModel"],
    "attn_pdrop": 0.0,
    "auto_map": remote("nomic-ai/nomic-bert-2048", Model="modeling_hf_nomic_bert.NomicBertModel"),
    "bos_token_id": None,
    "causal": False,
    "dense_seq_output": True,
    "embd_pdrop": 0.0,
    "eos_token_id": None,
    "fused_bias_fc": True,
    "fused_dropout_add_ln": True,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 36,
    "n_head": 3,
    "n_inner": 50,
    "n_layer": 3,
    "n_positions": 83,
    "pad_vocab_size_multiple": 64,
    "parallel_block": False,
    "parallel_block_tied_norm": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.0,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.0,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "torch_dtype": "float32",
    "transformers_version": "4.37.2",
    "type_vocab_size": 2,
    "use_cache": True,
    "use_flash_attn": True,
    "use_rms_norm": False,
    "use_xentropy": True,
    "vocab_size": 101,
}
# Transformers now has NomicBert, so the file of v1.5 says things twice; max_position_embeddings is the training's.
BOTH_CONFIG = {
    **NOMIC_CONFIG,
    "head_dim": 12,
    "hidden_act": "silu",
    "hidden_size": 36,
    "intermediate_size": 50,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 20,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
}
GTE_CONFIG = {
    **SIZES,
    "_name_or_path": "gte",
    "architectures": ["NewModel", "NewForTokenClassification"],
    "attention_probs_dropout_prob": 0.0,
    "auto_map": remote("Alibaba-NLP/new-impl", Config="configuration.NewConfig", Model="modeling.NewModel"),
    "classifier_dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False,
    "logn_attention_scale": False,
    "model_type": "new",
    "pack_qkv": True,
    "pad_token_id": 1,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": 8.0, "type": "ntk"},
    "rope_theta": 20000,
    "torch_dtype": "float32",
    "transformers_version": "4.39.1",
    "type_vocab_size": 1,
    "unpad_inputs": False,
    "use_memory_efficient_attention": False,
}
# The flags of kernels are strings there.
ARCTIC_CONFIG = {
    **GTE_CONFIG,
    "architectures": ["GteModel"],
    "auto_map": {"AutoModel": "modeling_hf_alibaba_nlp_gte.GteModel"},
    "matryoshka_dimensions": [256],
    "model_type": "gte",
    "rope_scaling": None,
    "rope_theta": 160000,
    "unpad_inputs": "true",
    "use_memory_efficient_attention": "true",
}
TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
JINA_V3_CONFIG = {
    **SIZES,
    "_name_or_path": "jinaai/jina-embeddings-v3",
    "architectures": ["XLMRobertaModel"],
    "attention_probs_dropout_prob": 0.1,
    "auto_map": remote("jinaai/xlm-roberta-flash-implementation", Model="modeling_lora.XLMRobertaLoRA"),
    "bos_token_id": 0,
    "classifier_dropout": None,
    "emb_pooler": None,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "load_trained_adapters": True,
    "lora_adaptations": TASKS,
    "lora_alpha": 1,
    "lora_dropout_p": 0.0,
    "lora_main_params_trainable": False,
    "lora_rank": 4,
    "matryoshka_dimensions": [32, 64],
    "model_type": "xlm-roberta",
    "output_past": True,
    "pad_token_id": 1,
    "position_embedding_type": "rotary",
    "rotary_emb_base": 20000.0,
    "task_instructions": dict.fromkeys(TASKS, ""),
    "torch_dtype": "bfloat16",
    "transformers_version": "4.30.2",
    "truncate_dim": None,
    "type_vocab_size": 1,
    "use_cache": True,
    "use_flash_attn": True,
    "use_reg_tokens": False,
}
JINA_V2_CONFIG = {
    **SIZES,
    "_name_or_path": "jinaai/jina-bert-implementation",
    "architectures": ["JinaBertForMaskedLM"],
    "attention_probs_dropout_prob": 0.0,
    "attn_implementation": "torch",
    "auto_map": remote("jinaai/jina-bert-implementation", Model="modeling_bert.JinaBertModel"),
    "classifier_dropout": None,
    "emb_pooler": "mean",
    "feed_forward_type": "geglu",
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "model_max_length": 8192,
    "model_type": "bert",
    "pad_token_id": 0,
    "position_embedding_type": "alibi",
    "torch_dtype": "float32",
    "transformers_version": "4.26.0",
    "type_vocab_size": 2,
    "use_cache": True,
}

# Transformers' names and the published ones, in the order in which they are replaced.
NOMIC_NAMES = {
    r"embeddings\.LayerNorm": "emb_ln",
    r"^layers": "encoder.layers",
    r"self_attn\.o_proj": "attn.out_proj",
    r"self_attn\.qkv": "attn.Wqkv",
    r"up_proj": "fc11",
    r"gate_proj": "fc12",
    r"down_proj": "fc2",
    r"post_attention_layernorm": "norm1",
    r"post_mlp_layernorm": "norm2",
}
GTE_NAMES = {
    r"^layers": "encoder.layer",
    r"self_attn\.o_proj": "attention.o_proj",
    r"self_attn\.qkv": "attention.qkv_proj",
    r"post_attention_layernorm": "attn_ln",
    r"post_mlp_layernorm": "mlp_ln",
}
JINA_V3_NAMES = {
    r"embeddings\.LayerNorm": "emb_ln",
    r"^layers": "encoder.layers",
    r"self_attn\.o_proj": "mixer.out_proj",
    r"self_attn\.qkv": "mixer.Wqkv",
    r"post_attention_layernorm": "norm1",
    r"post_mlp_layernorm": "norm2",
}


def packed(weights, whole, parts):
    """Return the same weights with some of them stacked into one, in this order."""
    result = {}
    for name, weight in weights.items():
        found = next((part for part in parts if f".{part}." in name), None)
        if found is None:
            result[name] = weight
        elif found == parts[0]:
            others = [weights[name.replace(f".{found}.", f".{part}.")] for part in parts]
            result[name.replace(f".{found}.", f".{whole}.")] = torch.cat(others)
    return result


@dataclass(frozen=True)
class Dialect:
    """A published config, transformers' model of the same architecture, and the differences in names and packing.

    ``also`` are weights and buffers in the published file that the encoder does not use.
    """

    case: Case
    config: dict
    names: dict
    prefix: str = ""
    gate_packed: bool = False
    without_types: bool = False
    also: tuple[str, ...] = field(default=())

    def model(self, seed=0):
        """Return the reference in PyTorch, with random weights."""
        model = self.case.make(seed)
        model.set_attn_implementation("eager")
        if self.without_types:
            model.embeddings.token_type_embeddings.weight.data.zero_()
        scaling = self.config.get("rope_scaling")
        if scaling:
            # "Fixed" NTK scaling: the base is larger by the factor, and all angles are smaller by factor^(2/H).
            model.rotary_emb.inv_freq.copy_(ntk_frequencies(12, self.config["rope_theta"], scaling["factor"]))
        return model

    def weights(self, model):
        """Return the model's weights by the published names."""
        weights = packed(dict(model.state_dict()), "qkv", ("q_proj", "k_proj", "v_proj"))
        if self.gate_packed:
            weights = packed(weights, "up_gate_proj", ("up_proj", "gate_proj"))
        if self.without_types:
            del weights["embeddings.token_type_embeddings.weight"]
        published = {}
        for name, weight in weights.items():
            for pattern, new in self.names.items():
                name = re.sub(pattern, new, name)  # noqa: PLW2901
            published[self.prefix + name] = weight.clone()
        return published | {name: torch.ones(3) for name in self.also}

    def save(self, path, weights, **changes):
        """Write a directory as it would be downloaded."""
        return save(path, weights, {**self.config, **changes})


def save(path, weights, config):
    path.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path / "model.safetensors")
    write_json(path / "config.json", config)
    (path / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    write_json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    return path


def save_native(path, model):
    """Write a directory with the names of transformers' modules; transformers itself writes the authors' names."""
    return save(path, {name: weight.clone() for name, weight in model.state_dict().items()}, model.config.to_dict())


def ntk_frequencies(head_size, base, factor):
    pair = torch.arange(head_size // 2, dtype=torch.float64)
    return (base * factor) ** (-2 * pair / head_size) * factor ** (-2 / head_size)


def rope(theta):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


NOMIC = Dialect(Case("NomicBertConfig", "NomicBertModel", SIZES | rope(1000.0)), NOMIC_CONFIG, NOMIC_NAMES)
GTE = Dialect(
    Case("GteConfig", "GteModel", SIZES | rope(20000.0)),
    GTE_CONFIG,
    GTE_NAMES,
    prefix="new.",
    gate_packed=True,
    also=("classifier.weight", "classifier.bias", "new.embeddings.position_ids", "new.embeddings.rotary_emb.inv_freq"),
)
JINA_V3 = Dialect(
    Case("JinaEmbeddingsV3Config", "JinaEmbeddingsV3Model", SIZES | rope(20000.0)),
    JINA_V3_CONFIG,
    JINA_V3_NAMES,
    prefix="roberta.",
)
ENGLISH = {"rope_scaling": {"factor": 2.0, "type": "ntk"}, "rope_theta": 500000, "type_vocab_size": 0}
DIALECTS = {
    "nomic-embed-text-v1": NOMIC,
    "nomic-embed-text-v1.5": replace(NOMIC, config=BOTH_CONFIG),
    "nomic-bert-2048": replace(NOMIC, prefix="bert.", also=("cls.predictions.decoder.bias", "bert.pooler.dense.bias")),
    "gte-base-en-v1.5": replace(GTE, config={**GTE_CONFIG, **ENGLISH, "pad_token_id": 0}, without_types=True),
    "gte-multilingual-base": GTE,
    "arctic-embed-m-v2.0": replace(
        GTE, case=Case("GteConfig", "GteModel", SIZES | rope(160000.0)), config=ARCTIC_CONFIG, prefix="", also=()
    ),
    "jina-embeddings-v3": JINA_V3,
}


def jina_v2(**changes):
    """Return the reference of Jina v2, with random weights, and a published config."""
    torch.manual_seed(0)
    model = JinaBert({**JINA_V2_CONFIG, **changes}).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_scale = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(0.15 * torch.randn_like(weight) + (1 if is_scale else 0))
    return model


def save_jina_v2(path, model, **more):
    """Write a directory of the reference, with the additional weights that the published file has."""
    weights = {f"bert.{name}": weight for name, weight in model.state_dict().items()}
    weights |= {"bert.pooler.dense.weight": torch.ones(3, 3), "bert.pooler.dense.bias": torch.ones(3)}
    return save(path, weights | more, model.config.to_dict())
