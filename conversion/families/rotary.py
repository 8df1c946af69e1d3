"""Post-norm encoders with rotary positions: NomicBert, GTE, Jina v3, in transformers' and their authors' formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.classifier import two_layers
from conversion.families.family import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    SIZES,
    TRAINING,
    Family,
    Spelling,
    activation,
    attention,
    embedding,
    linear,
    norm,
    packed_attention,
    take_rope,
    write_rope,
)
from conversion.rules import Names
from tsjax.errors import ConversionError
from tsjax.validation.numbers import is_finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conversion.fields import Fields
    from conversion.rules import Rule
    from tsjax.model.config import EncoderConfig


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    """Return the rules with transformers' names."""
    layer, ours = "layers.{i}", "layers.{i}"
    if config.feed_forward == "gated":
        up = (
            *linear(f"{layer}.mlp.gate_proj", f"{ours}.feed_forward.gate", bias=config.up_bias),
            *linear(f"{layer}.mlp.up_proj", f"{ours}.feed_forward.up", bias=config.up_bias),
        )
        down = f"{layer}.mlp.down_proj"
    else:
        up = (*linear(f"{layer}.mlp.fc1", f"{ours}.feed_forward.up"),)
        down = f"{layer}.mlp.fc2"
    return (
        *_embeddings(config, "embeddings.LayerNorm"),
        *attention(*(f"{layer}.self_attn.{part}_proj" for part in "qkvo"), bias=config.attention_bias),
        *norm(f"{layer}.post_attention_layernorm", f"{ours}.attention_norm"),
        *up,
        *linear(down, f"{ours}.feed_forward.down", bias=config.down_bias),
        *norm(f"{layer}.post_mlp_layernorm", f"{ours}.feed_forward_norm"),
    )


def _embeddings(config: EncoderConfig, norm_name: str) -> tuple[Rule, ...]:
    return (
        embedding("embeddings.word_embeddings", "embeddings.token"),
        *([embedding("embeddings.token_type_embeddings", "embeddings.token_type")] if config.type_vocab_size else ()),
        *norm(norm_name, "embeddings.norm"),
    )


_COMMON = {**SIZES, "type_vocab_size": "type_vocab_size"}
_CONSTANTS = {"absolute_positions": False}
_POOLED = two_layers("pooler.dense", "classifier", "tanh")
# Heads, and buffers that are recomputed: position ids, and frequencies.
_IGNORED = (
    *("pooler.*", "classifier.*", "cls.*", "lm_head.*"),
    *("embeddings.position_ids", "embeddings.token_type_ids", "*inv_freq", "*.cos_cached", "*.sin_cached"),
)


def _published_nomic(config: EncoderConfig) -> tuple[Rule, ...]:
    layer, ours = "encoder.layers.{i}", "layers.{i}"
    return (
        *_embeddings(config, "emb_ln"),
        *packed_attention(f"{layer}.attn.Wqkv", f"{layer}.attn.out_proj", bias=config.attention_bias),
        *norm(f"{layer}.norm1", f"{ours}.attention_norm"),
        *linear(f"{layer}.mlp.fc11", f"{ours}.feed_forward.up", bias=config.up_bias),
        *linear(f"{layer}.mlp.fc12", f"{ours}.feed_forward.gate", bias=config.up_bias),
        *linear(f"{layer}.mlp.fc2", f"{ours}.feed_forward.down", bias=config.down_bias),
        *norm(f"{layer}.norm2", f"{ours}.feed_forward_norm"),
    )


# The native config of NomicBert, and the fields of the published one, which derives from GPT-2's.
_NOMIC = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
}


def _nomic(fields: Fields) -> dict[str, Any]:
    """Read NomicBert's config in either dialect; one of the sizes tells the dialects apart."""
    published = "n_embd" in fields
    taken = {
        _NOMIC_OURS[native]: fields.take_count(other if published else native)
        for native, other in _NOMIC.items()
        if native != "layer_norm_eps"
    }
    eps = fields.take("layer_norm_epsilon" if published else "layer_norm_eps", 1e-12, (int, float))
    if published:
        # Some published files hold every field in both dialects. max_position_embeddings is then the length in
        # training.
        fields.harmless(["max_position_embeddings"])
        for native, other in _NOMIC.items():
            if native not in (other, "max_position_embeddings"):
                fields.require(native, eps if native == "layer_norm_eps" else taken[_NOMIC_OURS[native]])
        # swiglu is a gate with SiLU.
        name = fields.take("activation_function", "swiglu", str)
        gates = {"swiglu": "silu", "geglu": "gelu"}
        if name not in gates:
            raise ConversionError(f"{fields.file}: activation_function {name!r} is not supported; known: {list(gates)}")
        base = float(fields.take("rotary_emb_base", 10_000.0, (int, float)))
        theta = take_rope(fields, base)
        if theta != {"rope_theta": base, "rope_factor": 1.0}:
            raise ConversionError(f"{fields.file}: rotary_emb_base = {base} contradicts rope_parameters or rope_theta")
        act = gates[name]
        fields.require("hidden_act", *(theirs for theirs, ours in ACTIVATIONS.items() if ours == act))
    else:
        act = activation(fields.take("hidden_act", "silu", str), fields.file)
        theta = take_rope(fields, 1000.0)
    head = fields.take_count("head_dim", None)
    return {
        **taken,
        **theta,
        "norm_eps": float(eps),
        "activation": act,
        "head_size": None if head == taken["hidden_size"] // taken["num_heads"] else head,
    }


_NOMIC_OURS = {**_COMMON, "layer_norm_eps": "norm_eps"}

NOMIC_BERT = Family(
    name="NomicBert",
    model_type="nomic_bert",
    model_class="NomicBertModel",
    base_name="nomic_bert",
    fields={"type_vocab_size": "type_vocab_size"},
    defaults={"type_vocab_size": 2},
    constants={
        **_CONSTANTS,
        "attention_bias": False,
        "feed_forward": "gated",
        "up_bias": False,
        "down_bias": False,
    },
    read=_nomic,
    write=lambda config: {
        **{native: getattr(config, _NOMIC_OURS[native]) for native in _NOMIC},
        "hidden_act": ACTIVATION_NAMES[config.activation],
        **({} if config.head_size is None else {"head_dim": config.head_size}),
        **write_rope(config),
    },
    spellings=(
        Spelling(_rules, Names(prefixes=("nomic_bert.", "bert."), ignored=_IGNORED)),
        Spelling(_published_nomic, Names(prefixes=("nomic_bert.", "bert."), ignored=_IGNORED), marker=".Wqkv."),
    ),
    # Fields of the published config: training options, and the fused kernels that were used.
    harmless=TRAINING
    | frozenset(
        """
        add_pooling_layer attn_pdrop auto_map dense_seq_output embd_pdrop fused_bias_fc fused_dropout_add_ln
        max_trained_positions pad_token_id pad_vocab_size_multiple pad_vocab_to_multiple_of reorder_and_upcast_attn
        resid_pdrop summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
        use_flash_attn use_xentropy
        """.split()
    ),
    pooler="pooler.dense",
    classifier=_POOLED,
    required={
        "causal": (False,),
        "mlp_fc1_bias": (False,),
        "mlp_fc2_bias": (False,),
        "moe_every_n_layers": (0,),
        "num_experts": (0,),
        "parallel_block": (False,),
        "parallel_block_tied_norm": (False,),
        "prenorm": (False,),
        "qkv_proj_bias": (False,),
        "rotary_emb_fraction": (1.0,),
        "rotary_emb_interleaved": (False,),
        "rotary_emb_scale_base": (),
        "rotary_scaling_factor": (),
        "scale_attn_by_inverse_layer_idx": (False,),
        "scale_attn_weights": (True,),
        "use_rms_norm": (False,),
    },
)


def _published_gte(config: EncoderConfig) -> tuple[Rule, ...]:
    layer, ours = "encoder.layer.{i}", "layers.{i}"
    return (
        *_embeddings(config, "embeddings.LayerNorm"),
        *packed_attention(f"{layer}.attention.qkv_proj", f"{layer}.attention.o_proj"),
        *norm(f"{layer}.attn_ln", f"{ours}.attention_norm"),
        *linear(f"{layer}.mlp.up_gate_proj", f"{ours}.feed_forward.up", bias=False, part=(0, 2)),
        *linear(f"{layer}.mlp.up_gate_proj", f"{ours}.feed_forward.gate", bias=False, part=(1, 2)),
        *linear(f"{layer}.mlp.down_proj", f"{ours}.feed_forward.down"),
        *norm(f"{layer}.mlp_ln", f"{ours}.feed_forward_norm"),
    )


def _ntk(fields: Fields) -> dict[str, Any]:
    """Return the published GTE's rotation: with "ntk", wavelengths for inputs ``factor`` times longer, at every length.

    The base is multiplied by the factor, and positions are divided by factor^(2/H), so that the longest wavelength
    becomes exactly ``factor`` times as long (the "fixed" NTK scaling of the published code).
    """
    scaling = fields.take("rope_scaling", {}, dict)
    theta = float(fields.take("rope_theta", 10_000.0, (int, float)))
    kind, factor = scaling.get("type"), scaling.get("factor", 1.0)
    left = set(scaling) - {"type", "factor", *(["rope_type"] if scaling.get("rope_type") == kind else [])}
    number = is_finite_number(factor) and factor >= 1
    if scaling and (kind != "ntk" or left or not number):
        raise ConversionError(
            f"{fields.file}: rope_scaling = {scaling!r} is not supported; known: ntk with a factor of at least 1"
        )
    head = fields.take_count("hidden_size") // fields.take_count("num_attention_heads")
    return {"rope_theta": theta * factor, "rope_factor": float(factor) ** (2 / head)}


_GTE = {**_COMMON, "layer_norm_eps": "norm_eps", "hidden_act": "activation"}
_GTE_CONSTANTS = {**_CONSTANTS, "feed_forward": "gated", "up_bias": False}
_GTE_SPELLINGS = (
    Spelling(_rules, Names(prefixes=("gte.", "new."), ignored=_IGNORED)),
    Spelling(_published_gte, Names(prefixes=("gte.", "new."), ignored=_IGNORED), marker=".attn_ln."),
)


def _is_published_gte(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is in the dialect of the authors, who also used transformers' later model type."""
    return any(name in config for name in ("auto_map", "layer_norm_type", "pack_qkv", "position_embedding_type"))


GTE = Family(
    name="GTE",
    model_type="gte",
    model_class="GteModel",
    base_name="gte",
    fields=_GTE,
    defaults={"type_vocab_size": 1, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    constants=_GTE_CONSTANTS,
    read=lambda fields: {**take_rope(fields, 160_000.0)},
    write=write_rope,
    spellings=_GTE_SPELLINGS,
    pooler="pooler.dense",
    classifier=_POOLED,
    harmless=TRAINING | {"pad_token_id"},
    matches=lambda config: not _is_published_gte(config),
)


def _published_gte_family(
    model_type: str, matches: Callable[[Mapping[str, Any]], bool] = lambda config: True
) -> Family:
    return Family(
        name="GTE",
        model_type=model_type,
        fields=_GTE,
        defaults={"type_vocab_size": 0, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
        constants=_GTE_CONSTANTS,
        read=_ntk,
        spellings=_GTE_SPELLINGS,
        pooler="pooler.dense",
        classifier=_POOLED,
        # Packing and kernel options; and the dimensions to which vectors may be cut, which the user chooses.
        harmless=TRAINING
        | frozenset(
            """
            auto_map matryoshka_dimensions pack_qkv pad_token_id sentence_transformers unpad_inputs
            use_memory_efficient_attention
            """.split()
        ),
        required={
            "layer_norm_type": ("layer_norm",),
            "logn_attention_clip1": (False,),
            "logn_attention_scale": (False,),
            "position_embedding_type": ("rope",),
        },
        matches=matches,
        exportable=False,
    )


# The published GTE, before transformers had it: gte-base-en-v1.5 and gte-multilingual-base, and arctic-embed-m-v2.0.
PUBLISHED_GTE = _published_gte_family("new")
PUBLISHED_ARCTIC = _published_gte_family("gte", _is_published_gte)


def _published_jina(config: EncoderConfig) -> tuple[Rule, ...]:
    layer, ours = "encoder.layers.{i}", "layers.{i}"
    return (
        *_embeddings(config, "emb_ln"),
        *packed_attention(f"{layer}.mixer.Wqkv", f"{layer}.mixer.out_proj"),
        *norm(f"{layer}.norm1", f"{ours}.attention_norm"),
        *linear(f"{layer}.mlp.fc1", f"{ours}.feed_forward.up"),
        *linear(f"{layer}.mlp.fc2", f"{ours}.feed_forward.down"),
        *norm(f"{layer}.norm2", f"{ours}.feed_forward_norm"),
    )


_JINA_DEFAULTS = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu"}
_JINA_SPELLINGS = (
    Spelling(_rules, Names(prefixes=("roberta.",), ignored=_IGNORED)),
    Spelling(_published_jina, Names(prefixes=("roberta.",), ignored=_IGNORED), marker=".mixer."),
)

JINA_V3 = Family(
    name="Jina v3",
    model_type="jina_embeddings_v3",
    model_class="JinaEmbeddingsV3Model",
    base_name="roberta",
    fields=_GTE,
    defaults=_JINA_DEFAULTS,
    constants=_CONSTANTS,
    read=lambda fields: {**take_rope(fields, 20_000.0)},
    write=write_rope,
    spellings=_JINA_SPELLINGS,
    pooler="pooler.dense",
    classifier=two_layers("classifier.dense", "classifier.out_proj", "tanh"),
    harmless=TRAINING | {"pad_token_id"},
)


def _rotary_base(fields: Fields) -> dict[str, Any]:
    return {"rope_theta": float(fields.take("rotary_emb_base", 10_000.0, (int, float)))}


# The published Jina v3: its type is XLM-RoBERTa, with rotary positions and adapters, which the converter merges.
PUBLISHED_JINA_V3 = Family(
    name="Jina v3",
    model_type="xlm-roberta",
    fields=_GTE,
    defaults=_JINA_DEFAULTS,
    constants=_CONSTANTS,
    read=_rotary_base,
    spellings=_JINA_SPELLINGS,
    pooler="pooler.dense",
    classifier=two_layers("classifier.dense", "classifier.out_proj", "tanh"),
    harmless=TRAINING
    | frozenset(
        """
        auto_map load_trained_adapters lora_adaptations lora_alpha lora_dropout_p lora_main_params_trainable lora_rank
        matryoshka_dimensions pad_token_id task_instructions use_flash_attn
        """.split()
    ),
    required={
        "emb_pooler": (),
        "position_embedding_type": ("rotary",),
        "truncate_dim": (),
        "use_reg_tokens": (False,),
    },
    matches=lambda config: config.get("position_embedding_type") == "rotary",
    # The class runs the encoder with the adapter of the task that is passed to it.
    modules=frozenset({"custom_st.Transformer"}),
    exportable=False,
)
