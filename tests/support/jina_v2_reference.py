"""Jina v2 in plain PyTorch, for parity.

The original is remote code, which tsjax neither runs nor copies. This is written from the papers (Jina v2,
arXiv:2310.19923: BERT with norms after the residual sums, a GEGLU feed-forward and ALiBi to both sides; ALiBi,
arXiv:2108.12409), from the fields of the published config.json and from the names and shapes of the published weights.
"""

from types import SimpleNamespace

import torch
from torch import nn


def slopes(heads):
    """Return the slopes of the heads.

    They are the geometric series 2^(-8/n), 2^(-16/n), …; for other than powers of two, gaps of the next finer one
    follow.
    """
    power = 1
    while 2 * power <= heads:
        power *= 2
    return [2 ** (-8 * k / power) for k in range(1, power + 1)] + [
        2 ** (-4 * k / power) for k in range(1, 2 * (heads - power), 2)
    ]


class _Self(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))


class _Output(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)


class _Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config["num_attention_heads"]
        self.self = _Self(config["hidden_size"])
        self.output = _Output(config["hidden_size"], config["layer_norm_eps"])

    def forward(self, x, bias):
        batch, length, width = x.shape

        def split(projected):
            return projected.view(batch, length, self.heads, -1).transpose(1, 2)

        query, key, value = split(self.self.query(x)), split(self.self.key(x)), split(self.self.value(x))
        logits = query @ key.transpose(2, 3) * (width / self.heads) ** -0.5 + bias
        mixed = (torch.nn.functional.softmax(logits, dim=-1) @ value).transpose(1, 2).reshape(batch, length, width)
        return self.output.LayerNorm(x + self.output.dense(mixed))


class _FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate = {"geglu": nn.functional.gelu, "reglu": nn.functional.relu}[config["feed_forward_type"]]
        self.gated_layers = nn.Linear(width, 2 * inner, bias=False)
        self.wo = nn.Linear(inner, width)
        self.layernorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, x):
        gate, up = self.gated_layers(x).chunk(2, dim=-1)
        return self.layernorm(x + self.wo(self.gate(gate) * up))


class _Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = _Attention(config)
        self.mlp = _FeedForward(config)

    def forward(self, x, bias):
        return self.mlp(self.attention(x, bias))


class _Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], config["hidden_size"])
        self.LayerNorm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])

    def forward(self, ids):
        return self.LayerNorm(self.word_embeddings(ids) + self.token_type_embeddings.weight[0])


class _Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config["num_hidden_layers"]))


class JinaBert(nn.Module):
    """The encoder, with the published names of weights; it is called as transformers' models are."""

    def __init__(self, config):
        super().__init__()
        self.config = SimpleNamespace(to_dict=lambda: config)
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.slopes = torch.tensor(slopes(config["num_attention_heads"]))

    def forward(self, input_ids, attention_mask):
        place = torch.arange(input_ids.shape[1])
        bias = -self.slopes[:, None, None] * (place[:, None] - place[None, :]).abs()
        bias = bias.masked_fill(attention_mask[:, None, None, :] == 0, torch.finfo(torch.float32).min)
        x = self.embeddings(input_ids)
        for layer in self.encoder.layer:
            x = layer(x, bias)
        return SimpleNamespace(last_hidden_state=x)
