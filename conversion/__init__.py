"""From other people's checkpoints to ours: the only place that knows PyTorch's and Hugging Face's names.

It imports from tsjax the configuration, the shapes that follow from it, and the checkpoint format; tsjax reaches it
only through `tsjax.hub`.
"""
