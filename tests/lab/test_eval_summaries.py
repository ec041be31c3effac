"""Every way to choose is shown at three lengths, the product's own among them."""

from lexrank import LexRank

from lab.eval.summaries import count_words, figures, nearest, others, rouge

SAID = ["One two three four.", "Five six.", "Seven eight nine ten eleven twelve.", "Thirteen."]


def test_the_number_of_sentences_nearest_to_so_many_words() -> None:
    assert [nearest(SAID, words) for words in (0, 3, 5, 6, 9, 10, 40)] == [0, 1, 2, 2, 3, 3, 4]


def test_others_at_three_lengths() -> None:
    shown = [SAID[2], SAID[3]]
    made = others(SAID, shown, LexRank([SAID]))
    assert made["lead.3"] == SAID[:3] and made["lead.same"] == SAID[:2] and made["lead.words"] == SAID[:2]
    assert set(made) == {f"{way}.{size}" for way in ("lead", "lexrank", "central") for size in ("3", "same", "words")}
    assert all(len(made[f"{way}.same"]) == 2 for way in ("lead", "lexrank"))
    assert abs(count_words(made["lexrank.words"]) - count_words(shown)) <= 3


def test_scores_words_and_paired_differences() -> None:
    told = [
        {way: rouge("the cat sat there", said) for way, said in (("product", "the cat sat"), ("lead.3", "a dog"))}
    ] * 3
    made = figures("x", told, differences=True)
    assert made["x.product.words"]["value"] == 3 and made["x.lead.3.words"]["value"] == 2
    assert made["x.product.rouge1"]["value"] == 85.71 and made["x.lead.3.rouge1"]["value"] == 0
    assert made["x.over.lead.3.rouge1"]["ci95"] == [85.71, 85.71]
