"""Only words of the vocabulary are kept from series descriptions."""

from medmim.data.dataset.series_tokens import VOCABULARY, tokens_of


def test_known_words_are_kept_in_vocabulary_order():
    assert tokens_of(["AX T1post Doe^Jane", "MPRAGE brain"]) == ("t1", "post", "ax", "head")
    assert tokens_of(["T2*"]) == ("t2star",)
    assert tokens_of(["Jane Doe 1950"]) == ()
    assert "channel3" in VOCABULARY
