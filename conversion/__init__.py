"""From other people's checkpoints to ours: the only place that knows PyTorch's and Hugging Face's names.

It imports from tsjax what a checkpoint of ours is (its configuration, the shapes that follow, its tokenizer, its files)
and nothing that embeds; tsjax reaches it only through `tsjax.hub`.
"""
