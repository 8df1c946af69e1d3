"""Recipe of a learning run: all its choices in one place, which can be saved and compared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from tsjax.errors import InputError
from tsjax.lab.evaluation.candidates import Side
from tsjax.temperature import Piecewise, Temperature
from tsjax.validation.numbers import check_whole_fields, finite_number, whole_number

if TYPE_CHECKING:
    from tsjax.temperature import Law

# The temperatures that are learned: none, one in all, one for each layer, or one for each layer and head.
Form: TypeAlias = Literal["none", "scalar", "layers", "heads"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Choices of a learning run.

    Attributes:
        form: the temperatures that are learned.
        by_length: the law that they follow; the factor of a `Piecewise` is learned too.
        side: the side whose temperatures are learned; the other side keeps τ = 1.
        weights: whether the encoder's weights are learned.
        steps: the maximum number of optimizer steps.
        batch_size: the number of pairs in a step; each query's negatives are the other pairs' texts, so a larger batch
            makes the task harder, and its gradient is less noisy. The network's memory does not limit it, because
            gradients are cached (see `tsjax.lab.learning.gradients`). The matrix of similarities does, at some tens of
            thousands.
        train_length: the length in tokens at which texts are truncated while learning; None for the model's own length.
        scale: the factor that similarities are multiplied by before the softmax of the loss; None for 20, the usual
            value for cosines, or 1 for a model that compares by dot products.
        learning_rate: Adam's learning rate of the temperatures.
        penalty: the factor of the mean of log² τ, which is added to the loss and pulls temperatures toward 1.
        weight_learning_rate: AdamW's maximum learning rate of the weights.
        weight_decay: the decay of the weight matrices.
        warmup: the fraction of the steps in which the weights' learning rate rises; then it falls linearly to 0.
        matryoshka: numbers of leading dimensions that are to serve as vectors, in addition to all dimensions
            (arXiv:2205.13147).
        evaluate_every: the number of steps from one evaluation on the validation pairs, and one saved state, to the
            next.
        patience: stop after this many evaluations without an improvement.
        seed: the seed of the order of the pairs.

    Raises:
        InputError: a value cannot be used.
    """

    form: Form = "heads"
    by_length: Law | None = None
    side: Side = "both"
    weights: bool = False
    steps: int = 60
    batch_size: int = 64
    train_length: int | None = None
    scale: float | None = None
    learning_rate: float = 0.03
    penalty: float = 0.02
    weight_learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    matryoshka: tuple[int, ...] = ()
    evaluate_every: int = 5
    patience: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in {"form": get_args(Form), "side": get_args(Side)}.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(allowed)}")
        check_whole_fields(self, "seed", at_least=0)
        dimensions = tuple(whole_number("a matryoshka dimension", dimension) for dimension in self.matryoshka)
        object.__setattr__(self, "matryoshka", dimensions)
        if len(set(self.matryoshka)) < len(self.matryoshka):
            raise InputError(f"a matryoshka dimension is there twice: {list(self.matryoshka)}")
        check_whole_fields(self, "steps", "evaluate_every", "patience", "batch_size")
        if self.batch_size < 2:
            raise InputError("batch_size must be at least 2: a query's negatives are the texts of other pairs")
        if self.scale is not None:
            finite_number("scale", self.scale, positive=True)
        for name in ("learning_rate", "weight_learning_rate"):
            finite_number(name, getattr(self, name), positive=True)
        for name in ("penalty", "weight_decay"):
            finite_number(name, getattr(self, name))
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is a share of the steps, from 0 to 1, not {self.warmup!r}")
        if self.form == "none" and not self.weights:
            raise InputError("nothing is to learn: neither temperatures nor weights")
        if self.form == "none" and self.by_length is not None:
            raise InputError("a law needs temperatures that learn: form is 'none'")

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        content = dataclasses.asdict(self)
        content["by_length"] = Temperature(1.0, self.by_length).to_json().get("by_length")
        content["matryoshka"] = list(self.matryoshka)
        return content

    @property
    def learns_factor(self) -> bool:
        """Return whether the law has a factor that is learned."""
        return isinstance(self.by_length, Piecewise)
