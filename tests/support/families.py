"""Small random models of each family, as transformers makes and saves them: parity is measured on them."""

from dataclasses import dataclass, field

from tests.support.checkpoints import tokenizer_json, write_json
from tests.support.lazy import lazy

torch = lazy("torch")
transformers = lazy("transformers")

# No size is a power of two. The number of heads is odd, except where fewer key and value heads must divide it.
SIZES = {
    "vocab_size": 101,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 50,
    "max_position_embeddings": 83,
}
GROUPED = {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10}


@dataclass(frozen=True)
class Case:
    """The names of a config class and a model class of transformers, and sizes.

    ``spread`` is that of the weights. It is smaller where rounding grows more, so that PyTorch's own error stays far
    from the tolerance: where attention is not scaled by 1/√H, and where no norm follows the sum that runs through the
    layers. ``scales`` is the value around which the scales of norms vary.
    """

    config_name: str
    model_name: str
    sizes: dict = field(default_factory=lambda: SIZES)
    spread: float = 0.15
    scales: float = 1.0

    @property
    def config(self):
        return getattr(transformers, self.config_name)

    @property
    def model(self):
        return getattr(transformers, self.model_name)

    def make(self, seed=0):
        """Return the model in PyTorch.

        Its weights are far from their usual start: otherwise a mistake could go unseen.
        """
        torch.manual_seed(seed)
        model = self.model(self.config(**self.sizes)).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                spread = self.spread * torch.randn_like(weight)
                is_scale = weight.ndim == 1 and name.endswith("weight")
                weight.copy_(self.scales + spread if is_scale else spread)
        return model

    def save(self, path, seed=0, tokenizer="PreTrainedTokenizerFast"):
        """Write a Hugging Face directory of the model."""
        model = self.make(seed)
        model.save_pretrained(path)
        (path / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
        write_json(path / "tokenizer_config.json", {"tokenizer_class": tokenizer, "pad_token": "[PAD]"})
        return model


T5_SIZES = {"vocab_size": 101, "d_model": 36, "d_kv": 7, "d_ff": 50, "num_layers": 3, "num_heads": 5}
CASES = {
    "BERT": Case("BertConfig", "BertModel", {**SIZES, "type_vocab_size": 2}),
    "RoBERTa": Case("RobertaConfig", "RobertaModel", {**SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "CamemBERT": Case("CamembertConfig", "CamembertModel", {**SIZES, "type_vocab_size": 1}),
    "XLM-RoBERTa": Case("XLMRobertaConfig", "XLMRobertaModel", {**SIZES, "type_vocab_size": 1}),
    "DistilBERT": Case(
        "DistilBertConfig",
        "DistilBertModel",
        {"vocab_size": 101, "dim": 36, "n_layers": 3, "n_heads": 3, "hidden_dim": 50, "max_position_embeddings": 83},
    ),
    "MPNet": Case("MPNetConfig", "MPNetModel"),
    "ELECTRA": Case("ElectraConfig", "ElectraModel", {**SIZES, "embedding_size": 20}),
    "ALBERT": Case("AlbertConfig", "AlbertModel", {**SIZES, "embedding_size": 20}),
    "T5": Case("T5Config", "T5EncoderModel", T5_SIZES, spread=0.08),
    "T5 v1.1": Case("T5Config", "T5EncoderModel", {**T5_SIZES, "feed_forward_proj": "gated-gelu"}, spread=0.08),
    "mT5": Case("MT5Config", "MT5EncoderModel", T5_SIZES, spread=0.08),
    "ModernBERT": Case(
        "ModernBertConfig",
        "ModernBertModel",
        {**SIZES, "num_hidden_layers": 5, "local_attention": 14, "pad_token_id": 0}
        | {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    ),
    "NomicBert": Case("NomicBertConfig", "NomicBertModel"),
    "GTE": Case("GteConfig", "GteModel"),
    "Jina v3": Case("JinaEmbeddingsV3Config", "JinaEmbeddingsV3Model"),
    "EuroBERT": Case(
        "EuroBertConfig", "EuroBertModel", {**GROUPED, "pad_token_id": 0, "mask_token_id": 4}, spread=0.12
    ),
    "Qwen3-Embedding": Case("Qwen3Config", "Qwen3Model", {**GROUPED, "pad_token_id": 0}, spread=0.12),
    "EmbeddingGemma": Case(
        "Gemma3TextConfig",
        "Gemma3TextModel",
        {**GROUPED, "sliding_window": 14, "query_pre_attn_scalar": 13, "use_bidirectional_attention": True}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        scales=-0.3,
    ),
}

# The cross-encoders of the families that have such a head.
HEADS = {
    "BERT": "BertForSequenceClassification",
    "RoBERTa": "RobertaForSequenceClassification",
    "CamemBERT": "CamembertForSequenceClassification",
    "XLM-RoBERTa": "XLMRobertaForSequenceClassification",
    "DistilBERT": "DistilBertForSequenceClassification",
    "MPNet": "MPNetForSequenceClassification",
    "ELECTRA": "ElectraForSequenceClassification",
    "ALBERT": "AlbertForSequenceClassification",
    "ModernBERT": "ModernBertForSequenceClassification",
    "NomicBert": "NomicBertForSequenceClassification",
    "GTE": "GteForSequenceClassification",
    "Jina v3": "JinaEmbeddingsV3ForSequenceClassification",
}
