"""config.json of every family with random sizes, without transformers or torch."""

from hypothesis import strategies as st

# Names of tsjax's fields, and their possible values. Sizes stay small, since weights are made of them.
_VALUES = {
    "vocab_size": st.integers(7, 20),
    "num_layers": st.integers(2, 4),
    "intermediate_size": st.integers(1, 9),
    "max_positions": st.integers(9, 20),
    "head_size": st.sampled_from([2, 4, 6]),
    "embedding_size": st.integers(1, 9),
    "type_vocab_size": st.integers(0, 2),
    "position_padding_id": st.integers(0, 2),
    "norm_eps": st.sampled_from([1e-12, 1e-6, 1e-5]),
    "norm_bias": st.booleans(),
    "attention_bias": st.booleans(),
    "activation": st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh"]),
    "relative_buckets": st.just(32),
    "relative_max_distance": st.sampled_from([64, 128]),
}
_EXTRA = {
    "albert": st.just({"num_hidden_groups": 1}),
    "t5": st.sampled_from([{"feed_forward_proj": name} for name in ("relu", "gated-gelu", "gated-silu", "gelu_new")]),
    "mt5": st.just({"feed_forward_proj": "gated-gelu"}),
    "modernbert": st.fixed_dictionaries(
        {"local_attention": st.sampled_from([4, 8]), "mlp_bias": st.booleans(), "global_rope_theta": st.just(1e5)}
    ),
    "gte": st.just({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 1.5}}),
    "new": st.just({"rope_scaling": {"type": "ntk", "factor": 2.0}, "position_embedding_type": "rope"}),
    "eurobert": st.fixed_dictionaries({"mlp_bias": st.booleans(), "rope_theta": st.just(25e4)}),
    "gemma3_text": st.just({"use_bidirectional_attention": True, "sliding_window": 8, "query_pre_attn_scalar": 5}),
}


@st.composite
def configs(draw, family):
    """Return a strategy for config.json of the family."""
    heads, size = draw(st.sampled_from([(1, 4), (2, 4), (3, 2), (4, 6)]))
    sizes = {"num_heads": heads, "hidden_size": heads * size, "num_key_value_heads": 1}
    fields = dict(family.fields)
    if family.name == "NomicBert":
        sizes |= {"num_layers": 2, "vocab_size": 11, "intermediate_size": 5, "max_positions": 13, "norm_eps": 1e-6}
        native = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_hidden_layers": "num_layers"}
        native |= {"num_attention_heads": "num_heads", "intermediate_size": "intermediate_size"}
        native |= {"max_position_embeddings": "max_positions", "layer_norm_eps": "norm_eps"}
        published = {"vocab_size": "vocab_size", "n_embd": "hidden_size", "n_layer": "num_layers"}
        published |= {"n_head": "num_heads", "n_inner": "intermediate_size", "n_positions": "max_positions"}
        fields |= draw(st.sampled_from([native, {**published, "layer_norm_epsilon": "norm_eps"}]))
    config = {theirs: sizes[ours] if ours in sizes else draw(_VALUES[ours]) for theirs, ours in fields.items()}
    if family.name == "Jina v2":
        config |= {"position_embedding_type": "alibi", "feed_forward_type": draw(st.sampled_from(["geglu", "reglu"]))}
    if family.name == "Jina v3" and family.model_type == "xlm-roberta":
        config |= {"position_embedding_type": "rotary", "rotary_emb_base": 20000.0}
    if family.model_type == "gte" and not family.exportable:  # the authors' dialect under transformers' model type
        return {"model_type": "gte", **config, "pack_qkv": True, "rope_theta": 160000.0}
    return {"model_type": family.model_type, **config, **draw(_EXTRA.get(family.model_type, st.just({})))}
