"""Random changes of the JSON files of a checkpoint, seeded, one at a time."""

import copy
import json
import random
from pathlib import Path

# Values that hand-written and machine-written files have held in the wrong places.
HOSTILE = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e-45, 1e308, float("inf"), float("nan"), 2**31, 2**63, 10**30),
    *("", " ", "x", "the", "[CLS]", "[SEP]", "[UNK]", "[PAD]", "##e", "a" * 5000, "0", "1", "true", "None", "é\u0301"),
    *("\x00", "\ud800", "../..", "/etc/passwd", "gelu", "default", "linear", "Right", "left", "mean", "torch.nn.Tanh"),
    *([], [[]], [None], ["x"], ["[CLS]", "[SEP]"], [0, 1], {}, {"a": 1}, {"type": "x"}, {"0": None}, {"content": "x"}),
    *({"id": 3, "content": "the", "special": True}, {"type": "Lowercase"}, {"type": "Sequence", "normalizers": []}),
)
NAMES = """
    type id content vocab added_tokens lowercase rope_scaling rope_parameters chat_template max_len model_max_length
    unk_token cls_token extra_special_tokens added_tokens_decoder auto_map normalized lstrip single_word hidden_size
    num_labels id2label sentence_transformers unknown add_bos_token model_input_names tokenizer_class truncation padding
    dropout fuse_unk max_length position_padding_id layer_types sliding_window torch_dtype architectures
    per_layer_config
""".split()


def places(value, path=()):
    """Return every place in a JSON value, as a path from the top; of long lists and objects, only the first ones."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:12]:
        yield from places(inner, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def change(rng, value):
    """Return a copy of a JSON value with one random change, and a description of the change."""
    value = copy.deepcopy(value)
    path = rng.choice(list(places(value)))
    if not path:
        return (rng.choice(HOSTILE), "all replaced") if rng.random() < 0.3 else change(rng, value)
    parent, key = at(value, path[:-1]), path[-1]
    old = parent[key]
    kind = rng.choice(("replace", "replace", "replace", "remove", "swap", "cast", "add", "rename", "nudge", "nest"))
    if kind == "replace":
        parent[key] = copy.deepcopy(rng.choice(HOSTILE))
    elif kind == "remove":
        del parent[key]
    elif kind == "swap":
        parent[key] = copy.deepcopy(at(value, rng.choice(list(places(value)))))
    elif kind == "cast":
        parent[key] = rng.choice((str(old), [old], {"x": old}, old == old, f"{old} "))  # noqa: PLR0124
    elif kind == "add" and isinstance(old, dict):
        old[rng.choice(NAMES)] = copy.deepcopy(rng.choice(HOSTILE))
    elif kind == "add" and isinstance(old, list):
        old.append(copy.deepcopy(rng.choice([*HOSTILE, *old])))
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice(NAMES)] = parent.pop(key)
    elif kind == "nudge" and isinstance(old, int | float):
        parent[key] = rng.choice((old + 1, old - 1, -old, old * 2, old / 2, float(old), not old))
    else:
        deep = old
        for _ in range(rng.choice((3, 200))):
            deep = [deep] if rng.random() < 0.5 else {"x": deep}
        parent[key] = deep
    shown = path[:6]
    return value, f"{kind} {shown}"


class Fuzzer:
    """A checkpoint whose JSON files are changed one at a time.

    Args:
        directory: the directory of the checkpoint.
        files: names of its JSON files, to choose among; a file that is named twice is chosen twice as often.
        seed: the seed of the changes.
    """

    def __init__(self, directory: Path, files, seed):
        self._rng = random.Random(seed)
        self._directory = directory
        self._files = files
        self._originals = {name: (directory / name).read_text(encoding="utf-8") for name in set(files)}

    def __iter__(self):
        """Yield a description of each change while it is in the files; then undo it."""
        while True:
            name = self._rng.choice(self._files)
            value, what = change(self._rng, json.loads(self._originals[name]))
            file = self._directory / name
            file.write_text(json.dumps(value), encoding="utf-8")
            yield f"{name}: {what}"
            file.write_text(self._originals[name], encoding="utf-8")
