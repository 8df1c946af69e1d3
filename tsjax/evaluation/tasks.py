"""The former name of `tsjax.lab.evaluation.tasks`, which still works."""

from tsjax.lab.evaluation.tasks import *  # noqa: F403
