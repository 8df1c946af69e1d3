import pytest

from tsjax.wording import counted, reason


@pytest.mark.parametrize(("number", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1000, "1,000 rows")])
def test_one_is_singular(number, said):
    assert counted(number, "row") == said
    assert counted(number, "query", "queries").endswith("query" if number == 1 else "queries")


def test_a_reason_names_no_file(tmp_path):
    with pytest.raises(OSError, match="none") as error:
        (tmp_path / "none").read_text()
    assert "none" not in reason(error.value)
    assert reason(ValueError("the value")) == "the value"
