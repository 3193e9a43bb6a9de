"""The token page in a browser: by pointer, by touch and by keyboard, colours are the scores."""

import re

import numpy as np
import pytest
import torch
from made_tokens import COUNTED, PLACE, QUERY, TEXTS, make_pairs, make_passage, make_question
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.interaction import POINTER_TOUCH
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from test_browser import show, unfold

from tdabench.questions.tokens.page import MethodPassages, Passage, colour_limit, format_score, render_token_page

pytestmark = pytest.mark.browser

# Of the page's style sheet, in the light scheme.
HELPFUL, HARMFUL = (74, 154, 226), (244, 146, 58)
BIF = range(4)
PAIR_LIMIT = colour_limit([make_pairs(number) for number in BIF])
WHOLE_LIMIT = colour_limit([make_pairs(number).sum(0) for number in BIF])
DIGITS = 0.006  # of three digits, of scores that are rounded themselves
EKFAC_LIMIT = colour_limit([make_passage(number, pairs=False).whole for number in (1, 3)])


@pytest.fixture
def opened(browser, addresses):
    """Open the page in a window of a desktop's width, in the light scheme, with everything unfolded."""
    show(browser, width=1280, scheme="light")
    browser.get(addresses["17.html"])
    unfold(browser)
    return browser


def tokens(browser, text: int | str) -> list:
    """Return the tokens of the query, or of the sequence at a place on the page."""
    holder = ".query .text" if text == "query" else f"(//li[@class='passage'])[{text + 1}]//p[@role='listbox']"
    by = By.CSS_SELECTOR if text == "query" else By.XPATH
    return browser.find_element(by, holder).find_elements(By.TAG_NAME, "span")


def colours(browser, text: int | str) -> list[float]:
    """Return each token's colour as a signed strength: what is seen, not what the script meant."""
    spans = tokens(browser, text)
    seen = browser.execute_script("return arguments[0].map(span => getComputedStyle(span).backgroundColor)", spans)
    strengths = []
    for colour in seen:
        *channels, strength = [float(part) for part in re.findall(r"[\d.]+", colour) + ["1"] * (colour[3] == "(")]
        sign = {HELPFUL: 1, HARMFUL: -1, (0, 0, 0): 0}[tuple(channels)]
        strengths.append(sign * strength)
    return strengths


def expected(scores: torch.Tensor, limit: float) -> np.ndarray:
    strengths = (scores / limit).clamp(-1, 1)
    return torch.where(strengths.abs() < 0.01, 0.0, strengths).numpy()


def assert_colours(browser, text: int | str, scores: torch.Tensor, limit: float) -> None:
    np.testing.assert_allclose(colours(browser, text), expected(scores, limit), atol=0.006)  # a browser keeps 8 bits


def assert_whole_query(browser) -> None:
    for number in BIF:
        assert_colours(browser, number, make_pairs(number).sum(0), WHOLE_LIMIT)
    assert_colours(browser, "query", torch.zeros(len(QUERY)), 1.0)


def value_of(text: str) -> float:
    return float(text.replace("−", "-"))


def hover(browser, element) -> None:
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)  # clear of the bar below
    ActionChains(browser).move_to_element(element).perform()


def inspected(browser) -> tuple[str, str]:
    return tuple(browser.find_element(By.ID, name).text for name in ("number", "said"))


def test_before_anything_is_touched_the_sequences_show_their_scores_for_the_whole_query(opened):
    assert_whole_query(opened)
    for place, number in ((4, 1), (5, 3)):
        assert_colours(opened, place, make_passage(number, pairs=False).whole, EKFAC_LIMIT)


def test_a_query_token_that_is_hovered_colours_every_sequence_by_its_scores_until_it_is_left(opened):
    hover(opened, tokens(opened, "query")[4])

    for number in BIF:
        assert_colours(opened, number, make_pairs(number)[4], PAIR_LIMIT)
    assert_colours(opened, 4, make_passage(1, pairs=False).whole, EKFAC_LIMIT)
    sums = [element.text for element in opened.find_elements(By.CSS_SELECTOR, "#m0 .sum")]
    assert [value_of(text.removeprefix("this query token: ")) for text in sums] == pytest.approx(
        [make_pairs(number)[4].sum().item() for number in BIF], rel=DIGITS
    )
    assert inspected(opened) == ("", "Query token “␣cat” (5): the sequences show their scores for it.")

    hover(opened, opened.find_element(By.TAG_NAME, "h1"))

    assert_whole_query(opened)


def test_a_training_token_that_is_hovered_colours_the_query_and_shows_its_number(opened):
    hover(opened, tokens(opened, 0)[1])

    assert_colours(opened, "query", make_pairs(0)[:, 1], PAIR_LIMIT)
    score = make_pairs(0)[:, 1].sum().item()
    assert inspected(opened) == (format_score(score), "BIF: “␣cat” (2) of training sequence 100 → whole query")
    assert_colours(opened, 1, make_pairs(1).sum(0), WHOLE_LIMIT)


def test_a_token_of_a_method_for_whole_queries_shows_its_number_and_leaves_the_query_plain(opened):
    hover(opened, tokens(opened, 4)[1])

    score = make_passage(1, pairs=False).whole[1].item()
    assert inspected(opened) == (format_score(score), "EK-FAC: “␣dog” (2) of training sequence 101 → whole query")
    assert_colours(opened, "query", torch.zeros(len(QUERY)), 1.0)


def test_a_click_holds_a_query_token_and_every_pair_shows_its_number(opened):
    tokens(opened, "query")[6].click()

    for number in BIF:
        for place, token in list(enumerate(tokens(opened, number)))[1:]:  # nothing predicts a first token
            hover(opened, token)
            score = make_pairs(number)[6, place].item()
            assert value_of(inspected(opened)[0]) == pytest.approx(score, rel=DIGITS)
            assert inspected(opened)[1].endswith("→ query token “␣ran” (7)")
        assert_colours(opened, number, make_pairs(number)[6], PAIR_LIMIT)

    tokens(opened, "query")[6].click()
    hover(opened, opened.find_element(By.TAG_NAME, "h1"))

    assert_whole_query(opened)


def test_what_is_held_is_marked_and_let_go_by_escape_or_by_the_button(opened):
    for let_go in (
        lambda: ActionChains(opened).send_keys(Keys.ESCAPE).perform(),
        lambda: opened.find_element(By.ID, "release").click(),
    ):
        for place in (4, 3):  # another click on the same side moves it
            tokens(opened, "query")[place].click()
        tokens(opened, 0)[2].click()
        chosen = opened.find_elements(By.CSS_SELECTOR, "[aria-selected=true]")

        let_go()

        assert [token.text for token in chosen] == ["a", "sat"]
        assert opened.find_elements(By.CSS_SELECTOR, "[aria-selected=true], .held") == []
        hover(opened, opened.find_element(By.TAG_NAME, "h1"))
        assert_whole_query(opened)
        assert not opened.find_element(By.ID, "release").is_displayed()


def test_a_tap_on_a_phone_holds_a_token(opened):
    show(opened, width=380, scheme="light")
    opened.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        opened.refresh()
        for side in ("query", 0):
            builder = ActionBuilder(opened, mouse=PointerInput(POINTER_TOUCH, "finger"))
            builder.pointer_action.move_to(tokens(opened, side)[4]).pointer_down().pointer_up()
            builder.perform()

        assert_colours(opened, 0, make_pairs(0)[4], PAIR_LIMIT)
        assert_colours(opened, "query", make_pairs(0)[:, 4], PAIR_LIMIT)
        assert inspected(opened)[0] == format_score(make_pairs(0)[4, 4].item())
    finally:
        opened.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def press(browser, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def tab_to(browser, element) -> None:
    for _ in range(100):
        if browser.switch_to.active_element == element:
            return
        press(browser, Keys.TAB)
    raise AssertionError("Tab never came there")


def test_everything_can_be_done_by_keyboard_alone(opened):
    hover(opened, opened.find_element(By.TAG_NAME, "h1"))
    query, sequence = tokens(opened, "query"), tokens(opened, 0)

    tab_to(opened, query[3])
    press(opened, Keys.ARROW_RIGHT)
    assert opened.switch_to.active_element == query[4]
    assert_colours(opened, 0, make_pairs(0)[4], PAIR_LIMIT)

    press(opened, Keys.ENTER)
    press(opened, Keys.TAB)  # past every other token of the query
    while opened.switch_to.active_element != sequence[1]:
        assert opened.switch_to.active_element not in query
        press(opened, Keys.TAB)
    press(opened, Keys.END)
    assert opened.switch_to.active_element == sequence[4]
    assert_colours(opened, 0, make_pairs(0)[4], PAIR_LIMIT)
    assert_colours(opened, "query", make_pairs(0)[:, 4], PAIR_LIMIT)
    assert inspected(opened)[0] == format_score(make_pairs(0)[4, 4].item())

    press(opened, Keys.SPACE)
    assert sequence[4].get_attribute("aria-selected") == "true"
    press(opened, Keys.ESCAPE, Keys.TAB)
    assert_whole_query(opened)
    assert opened.execute_script("return scrollY") >= 0


def test_arrows_go_from_line_to_line_and_stay_at_the_ends(opened):
    query = tokens(opened, "query")
    tab_to(opened, query[3])

    press(opened, Keys.ARROW_DOWN)  # the token behind the line's end
    below = opened.switch_to.active_element
    press(opened, Keys.ARROW_DOWN)
    end = opened.switch_to.active_element
    press(opened, Keys.ARROW_UP)

    assert below == end == query[6]
    assert opened.switch_to.active_element in query[3:6]
    press(opened, Keys.HOME, Keys.ARROW_LEFT)
    assert opened.switch_to.active_element == query[3]


def test_colours_can_be_full_at_each_sequences_strongest(opened):
    opened.find_element(By.CSS_SELECTOR, "[value=sequence]").click()

    for number in BIF:
        whole = make_pairs(number).sum(0)
        assert_colours(opened, number, whole, whole.abs().max().item())
    tokens(opened, "query")[4].click()
    tokens(opened, 1)[2].click()
    for number in BIF:
        assert_colours(opened, number, make_pairs(number)[4], make_pairs(number)[4].abs().max().item())
    column = make_pairs(1)[:, 2]
    assert_colours(opened, "query", column, column.abs().max().item())


def test_the_legend_says_which_scores_have_the_full_colour(opened):
    def ends() -> list[str]:
        return [element.text for element in opened.find_elements(By.CSS_SELECTOR, "#m0 .low, #m0 .high")]

    whole = ends()
    hover(opened, tokens(opened, "query")[4])

    assert whole == [format_score(-WHOLE_LIMIT), format_score(WHOLE_LIMIT)]
    assert ends() == [format_score(-PAIR_LIMIT), format_score(PAIR_LIMIT)]


def test_tokens_without_a_loss_do_nothing(opened):
    for place in (~COUNTED).nonzero().flatten().tolist():
        tokens(opened, "query")[place].click()

    assert_whole_query(opened)
    assert opened.find_elements(By.CSS_SELECTOR, "[aria-selected=true]") == []


def test_screen_readers_hear_named_lists_of_tokens_and_what_is_chosen(opened):
    lists = opened.find_elements(By.CSS_SELECTOR, "[role=listbox]")
    names = [element.get_attribute("aria-label") for element in lists]
    options = opened.execute_script(
        "return arguments[0].map(list => list.querySelectorAll('[role=option]').length)", lists
    )

    assert names[:2] == ["Tokens of the query", "BIF, rank +1: tokens of training sequence 100"]
    assert len(set(names)) == len(names) == 7
    assert options == [4, *(len(TEXTS[number]) - 1 for number in (0, 1, 2, 3, 1, 3))]
    assert opened.find_element(By.ID, "said").get_attribute("role") == "status"
    reached = opened.execute_script("return document.querySelectorAll('[role=option][tabindex=\"0\"]').length")
    assert reached == 7, "one stop of Tab a text"


def test_the_query_stays_in_sight_where_the_sequences_are_read(opened):
    for width in (380, 1280):
        show(opened, width=width, scheme="light")
        opened.refresh()
        unfold(opened)
        hovered = tokens(opened, 3)[1]
        opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", hovered)

        top, bottom, window = opened.execute_script(
            "const box = document.querySelector('.query .text').getBoundingClientRect();"
            "return [box.top, box.bottom, innerHeight]"
        )
        assert opened.execute_script("return scrollY") > 0
        assert top >= 0
        assert bottom < window


def test_without_scripts_every_text_and_the_scores_of_sequences_are_there(opened, addresses):
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(addresses["17.html"])

        assert "The cat sat down." in opened.find_element(By.TAG_NAME, "main").text
        assert format_score(make_passage(0).score) in opened.find_element(By.TAG_NAME, "main").text
        assert "need JavaScript" in opened.find_element(By.TAG_NAME, "body").text
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_page_writes_numbers_as_the_report_does(opened, tmp_path):
    scores = torch.tensor([0.0, 1.0, -0.012345, 0.09999, 123.456, 999.6, -0.0009996, 0.00012, 3.5e-12])
    passages = tuple(
        Passage(index=place, pieces=("a", "b"), counted=torch.tensor([False, True]), score=1.0, whole=score)
        for place, score in enumerate(torch.stack([torch.zeros(9), scores], dim=1).double()[1:])
    )
    method = MethodPassages(label="EK-FAC", helpful=passages)
    path = tmp_path / "number.html"
    path.write_text(render_token_page(*PLACE, make_question(), [method], neighbours=(None, None)), encoding="utf-8")
    opened.get(path.as_uri())
    unfold(opened)

    for place, score in enumerate(scores[1:].double().tolist()):
        hover(opened, tokens(opened, place)[1])
        assert inspected(opened)[0] == format_score(score)
