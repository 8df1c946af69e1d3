"""The former name of `tsjax.lab.analysis`, which still works."""

from tsjax.lab.analysis import *  # noqa: F403
