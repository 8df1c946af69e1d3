"""Export of a published dialect as transformers' own class, which gives the same vectors."""

import numpy as np
import pytest

from conversion.convert import convert
from conversion.export import export
from tests.support.hidden_states import LENGTHS, ids
from tests.support.lazy import lazy
from tests.support.published import DIALECTS, jina_v2, save_jina_v2
from tsjax.errors import ConversionError

hidden_states, load_original = lazy("conversion.originals", "hidden_states", "load_original")


@pytest.mark.parametrize("name", DIALECTS)
def test_a_published_dialect_goes_back_as_transformers_has_it(name, tmp_path):
    model = DIALECTS[name].model()
    DIALECTS[name].save(tmp_path / "theirs", DIALECTS[name].weights(model))
    convert(tmp_path / "theirs", tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "back")
    expected, mask = hidden_states(model, ids(1), LENGTHS)
    states, _ = hidden_states(load_original(tmp_path / "back"), ids(1), LENGTHS)
    np.testing.assert_allclose(states[mask], expected[mask], rtol=0, atol=2e-6 * np.abs(expected[mask]).max())


def test_jina_v2_has_no_class_to_go_back_to(tmp_path):
    save_jina_v2(tmp_path / "theirs", jina_v2())
    convert(tmp_path / "theirs", tmp_path / "ours")
    with pytest.raises(ConversionError, match="transformers has no class for Jina v2"):
        export(tmp_path / "ours", tmp_path / "back")
