"""A small random model of each family, as transformers makes and saves it: what parity is measured on."""

from dataclasses import dataclass, field

import torch
import transformers as hf

from tests.support.checkpoints import tokenizer_json, write_json

# Nothing is a power of two; the number of heads is odd, but where fewer key and value heads must divide it.
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
    """A config class, a model class, and sizes.

    ``spread`` is that of the weights. It is less where rounding grows more, lest PyTorch's own error come near the
    tolerance: where attention is not scaled by 1/√H, and where no norm follows the sum that runs through the layers.
    ``scales`` is what the scales of norms vary around.
    """

    config: type
    model: type
    sizes: dict = field(default_factory=lambda: SIZES)
    spread: float = 0.15
    scales: float = 1.0

    def make(self, seed=0):
        """The model in PyTorch, with weights that are far from their usual start, lest a mistake go unseen."""
        torch.manual_seed(seed)
        model = self.model(self.config(**self.sizes)).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                spread = self.spread * torch.randn_like(weight)
                is_scale = weight.ndim == 1 and name.endswith("weight")
                weight.copy_(self.scales + spread if is_scale else spread)
        return model

    def save(self, path, seed=0, tokenizer="PreTrainedTokenizerFast"):
        """A Hugging Face directory of it."""
        model = self.make(seed)
        model.save_pretrained(path)
        (path / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
        write_json(path / "tokenizer_config.json", {"tokenizer_class": tokenizer, "pad_token": "[PAD]"})
        return model


T5_SIZES = {"vocab_size": 101, "d_model": 36, "d_kv": 7, "d_ff": 50, "num_layers": 3, "num_heads": 5}
CASES = {
    "BERT": Case(hf.BertConfig, hf.BertModel, {**SIZES, "type_vocab_size": 2}),
    "RoBERTa": Case(hf.RobertaConfig, hf.RobertaModel, {**SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "CamemBERT": Case(hf.CamembertConfig, hf.CamembertModel, {**SIZES, "type_vocab_size": 1}),
    "XLM-RoBERTa": Case(hf.XLMRobertaConfig, hf.XLMRobertaModel, {**SIZES, "type_vocab_size": 1}),
    "DistilBERT": Case(
        hf.DistilBertConfig,
        hf.DistilBertModel,
        {"vocab_size": 101, "dim": 36, "n_layers": 3, "n_heads": 3, "hidden_dim": 50, "max_position_embeddings": 83},
    ),
    "MPNet": Case(hf.MPNetConfig, hf.MPNetModel),
    "ELECTRA": Case(hf.ElectraConfig, hf.ElectraModel, {**SIZES, "embedding_size": 20}),
    "ALBERT": Case(hf.AlbertConfig, hf.AlbertModel, {**SIZES, "embedding_size": 20}),
    "T5": Case(hf.T5Config, hf.T5EncoderModel, T5_SIZES, spread=0.08),
    "T5 v1.1": Case(hf.T5Config, hf.T5EncoderModel, {**T5_SIZES, "feed_forward_proj": "gated-gelu"}, spread=0.08),
    "mT5": Case(hf.MT5Config, hf.MT5EncoderModel, T5_SIZES, spread=0.08),
    "ModernBERT": Case(
        hf.ModernBertConfig,
        hf.ModernBertModel,
        {**SIZES, "num_hidden_layers": 5, "local_attention": 14, "pad_token_id": 0}
        | {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    ),
    "NomicBert": Case(hf.NomicBertConfig, hf.NomicBertModel),
    "GTE": Case(hf.GteConfig, hf.GteModel),
    "Jina v3": Case(hf.JinaEmbeddingsV3Config, hf.JinaEmbeddingsV3Model),
    "EuroBERT": Case(
        hf.EuroBertConfig, hf.EuroBertModel, {**GROUPED, "pad_token_id": 0, "mask_token_id": 4}, spread=0.12
    ),
    "Qwen3-Embedding": Case(hf.Qwen3Config, hf.Qwen3Model, {**GROUPED, "pad_token_id": 0}, spread=0.12),
    "EmbeddingGemma": Case(
        hf.Gemma3TextConfig,
        hf.Gemma3TextModel,
        {**GROUPED, "sliding_window": 14, "query_pre_attn_scalar": 13, "use_bidirectional_attention": True}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        scales=-0.3,
    ),
}

# The cross-encoders of those families that have such a head.
HEADS = {
    "BERT": hf.BertForSequenceClassification,
    "RoBERTa": hf.RobertaForSequenceClassification,
    "CamemBERT": hf.CamembertForSequenceClassification,
    "XLM-RoBERTa": hf.XLMRobertaForSequenceClassification,
    "DistilBERT": hf.DistilBertForSequenceClassification,
    "MPNet": hf.MPNetForSequenceClassification,
    "ELECTRA": hf.ElectraForSequenceClassification,
    "ALBERT": hf.AlbertForSequenceClassification,
    "ModernBERT": hf.ModernBertForSequenceClassification,
    "NomicBert": hf.NomicBertForSequenceClassification,
    "GTE": hf.GteForSequenceClassification,
    "Jina v3": hf.JinaEmbeddingsV3ForSequenceClassification,
}
