"""Conversion of published checkpoints: the only code that knows PyTorch's and Hugging Face's names.

This package imports from tsjax the definition of a tsjax checkpoint (its configuration, the shapes that follow from it,
its tokenizer, its files) and nothing that embeds. tsjax imports it only through `tsjax.hub`.
"""
