"""Groups of tests that share a process of pytest-xdist."""

from xdist.scheduler import LoadFileScheduling

# Folders whose tests share an import of seconds, or compiled programs. Every other file is a separate group.
GROUPS = {
    "tests/parity/": "torch",
    "tests/integrations/": "torch",
    "tests/conversion/test_fuzz_against_transformers.py": "torch",
    "tests/scripts/test_reproduce_tempscale.py": "torch",
    "tests/encoders/": "encoders",
    "tests/engine/": "encoders",
    "tests/model/": "model",
}


class ByGroup(LoadFileScheduling):
    """Give a group of tests to one process; groups of many tests come first."""

    def _split_scope(self, nodeid: str) -> str:
        return next(
            (group for place, group in GROUPS.items() if nodeid.startswith(place)), super()._split_scope(nodeid)
        )
