"""The former name of `tsjax.lab.evaluation`, which still works."""

from tsjax.lab.evaluation import *  # noqa: F403
