"""The token page's text and numbers: what stands on it, escaped, and the scores that its script reads."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from made_tokens import PLACE, QUERY, TEXTS, make_methods, make_passage, make_question
from parsed import Parsed

from tdabench.questions.tokens.page import (
    STEPS,
    MethodPassages,
    Passage,
    colour_limit,
    format_score,
    pack_scores,
    render_token_index,
    render_token_page,
)


@pytest.fixture(scope="module")
def page() -> str:
    return render_token_page(*PLACE, make_question(), make_methods(), neighbours=("3.html", None))


def scores_of(page: str) -> dict:
    (content,) = re.findall(r'<script type="application/json" id="scores">(.*?)</script>', page, re.DOTALL)
    return json.loads(content)


def text_of(page: str) -> str:
    """Return the text that is seen, spaces as they are."""
    (content,) = Parsed(page).texts("body")
    return content


def unpack(packed: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["rounded"]), dtype="<i2") * (packed["strongest"] / STEPS)


def test_the_page_says_what_it_is_about_and_leads_to_the_others(page):
    text = text_of(page)

    assert all("".join(pieces) in text for pieces in (QUERY, *TEXTS))
    assert "lds_stories, repeat 0, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}400" in text
    assert "Query 17" in text
    assert 'href="3.html"' in page
    assert 'rel="next"' not in page
    assert 'href="index.html"' in page
    assert 'href="../../report.html"' in page
    assert "rounded to 1/32,767 of each sequence’s strongest" in " ".join(text.split())


def test_text_of_the_data_is_text_and_nothing_else():
    attack = "</script><script>document.title='attacked'</script><img src=x onerror=alert(1)>"
    passage = make_passage(0)
    hostile = Passage(**vars(passage) | {"pieces": (attack, *passage.pieces[1:])})
    method = MethodPassages(label=attack, summary=attack, facts=((attack, attack),), helpful=(hostile,))

    page = render_token_page(*PLACE, make_question(), [method], neighbours=(None, None))

    assert page.count("<script") == 2
    assert "<img" not in page
    assert attack in text_of(page)


def test_a_method_without_scores_gives_its_reason(page):
    assert Parsed(page).texts("dt", "dd")[-2:] == ["TRAK", "TRAK has no scores of tokens."]
    assert 'id="m2"' not in page


def test_a_sequence_that_two_methods_name_leads_from_one_to_the_other(page):
    text = text_of(page)

    assert "also EK-FAC’s +1" in text
    assert "also BIF’s +2" in text
    assert 'id="m1-101"' in page
    assert page.count('href="#m1-101"') == 1


def test_the_scores_on_the_page_are_those_of_the_method_to_half_a_step():
    methods = make_methods()
    packed = scores_of(render_token_page(*PLACE, make_question(), methods, neighbours=(None, None)))["methods"]

    for method, written in zip(methods[:2], packed, strict=True):
        for passage, content in zip(method.passages, written["passages"], strict=True):
            for name in ("whole", "pairs"):
                exact = getattr(passage, name)
                if exact is None:
                    assert content[name] is None
                    continue
                found = unpack(content[name])
                step = exact.abs().max().item() / STEPS
                np.testing.assert_allclose(found, exact.flatten().numpy(), atol=0.501 * step, rtol=0)


def test_scores_that_are_all_zero_are_packed_as_zeros_and_such_as_are_not_finite_refused():
    packed = pack_scores(torch.zeros(3))

    assert packed["strongest"] == 0
    assert unpack(packed).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="needs finite scores"):
        pack_scores(torch.tensor([1.0, float("nan")]))


def test_a_colour_is_full_where_one_in_a_hundred_scores_is_as_strong():
    scores = torch.arange(1.0, 201.0)

    assert colour_limit([-scores[:50], scores[50:]]) == 198.0
    assert colour_limit([torch.cat([torch.zeros(500), torch.tensor([-3.0])])]) == 3.0  # almost all are zero
    assert colour_limit([]) == 0.0


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, "0"),
        (1.0, "+1.00"),
        (-0.012345, "−0.0123"),
        (0.09999, "+0.100"),
        (123.456, "+123"),
        (999.6, "+1.00e3"),
        (-0.0009996, "−0.00100"),
        (0.00012, "+1.20e−4"),
        (float("nan"), "—"),
    ],
)
def test_a_score_has_its_sign_and_three_digits(score, text):
    assert format_score(score) == text


def test_the_index_leads_to_every_query_with_its_first_words_escaped():
    attack = make_question(5)
    hostile = type(attack)(index=5, pieces=("<b>", "x" * 300, "⏎\n"), counted=torch.ones(3, dtype=torch.bool))

    page = render_token_index(*PLACE, [make_question(), hostile], ["BIF", "EK-FAC"])

    assert re.findall(r'<li><a href="(\d+\.html)"', page) == ["17.html", "5.html"]
    assert "Tell me: a cat ran" in text_of(page)
    assert "<b>" not in page
    assert "<p>…</p>" in page
