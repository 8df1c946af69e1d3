"""`jax.jit` for this package's programs: without the rewrites of XLA's CPU compiler that give wrong numbers.

From jaxlib 0.10.2 on, XLA hands groups of operations to the library YNNPACK. Of these, a product followed by a
multiplication and a sum can come out wrong without a word: over more than 32,768 rows with jaxlib 0.10.2
(jax-ml/jax#39103), and with an operand that is one number spread out, as in gradients, with 0.10.2 to 0.12.0.1 at
least. Products alone are right, and so is everything with this option, which leaves YNNPACK nothing but single
products. `tsjax doctor` checks both ways of compiling on the machine at hand.

The option belongs to each program, because the flag of the process (`XLA_FLAGS`) has no effect once JAX has started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def jit(function: Callable[..., Any], *, static_argnames: str | Sequence[str] | None = None) -> Any:
    """Compile a function as `jax.jit` does, with `OPTIONS`; a program must not be called inside another one."""
    return jax.jit(function, static_argnames=static_argnames, compiler_options=OPTIONS)
