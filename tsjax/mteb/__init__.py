"""The former name of `tsjax.integrations.mteb`, which still works."""

from tsjax.integrations.mteb import Model as Model
