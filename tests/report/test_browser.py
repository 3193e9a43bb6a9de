"""The page in a browser, from a file and without a network, as people open it."""

import json

import pytest
from made_up import FIGURES, LONG
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

pytestmark = pytest.mark.browser


PAGES = ("report.html", "17.html", "index.html")


@pytest.fixture
def opened(browser, addresses):
    """Open the report in a window of a desktop's width, in the light scheme."""
    show(browser, width=1280, scheme="light")
    browser.get(addresses["report.html"])
    return browser


def unfold(browser) -> None:
    browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")


def show(browser, *, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def column(browser, place: int) -> list[str]:
    script = (
        "return [...document.querySelector('table.sortable').tBodies[0].rows].map(r => r.cells[arguments[0]].innerText)"
    )
    return browser.execute_script(script, place)


def header(browser, text: str):
    (found,) = browser.find_elements(By.XPATH, f"(//table)[1]//th[button[text()='{text}']]")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_an_error_asks_the_network_for_nothing_and_runs_no_text(browser, addresses, page):
    for log in ("performance", "browser"):
        browser.get_log(log)

    browser.get(addresses[page])

    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert browser.get_log("browser") == []
    assert any(address.startswith("file:") for address in asked)
    assert [address for address in asked if not address.startswith(("file:", "data:"))] == []
    # Texts of the data that would change it.
    assert browser.title != "attacked"
    assert page == "index.html" or "title='attacked'" in browser.find_element(By.TAG_NAME, "main").get_property(
        "textContent"
    )


def test_every_picture_is_drawn(opened):
    widths = opened.execute_script("return [...document.images].map(image => image.complete && image.naturalWidth)")
    sheet = opened.execute_script("return getComputedStyle(document.querySelector('.image')).backgroundImage")

    assert widths == [200] * len(FIGURES)
    assert sheet.startswith('url("data:image/png')


def test_a_click_on_a_header_sorts_numbers_as_numbers_and_a_second_click_turns_them(opened):
    ranks = column(opened, 0)
    lds = header(opened, "LDS")

    lds.find_element(By.TAG_NAME, "button").click()
    ascending = column(opened, 2)
    first = lds.get_attribute("aria-sort")
    lds.find_element(By.TAG_NAME, "button").click()

    assert ranks == ["1", "2", "3", "—"]
    assert ascending == ["0.550", "0.650", "0.750", "—"]
    assert column(opened, 2) == ["0.750", "0.650", "0.550", "—"]
    assert (first, lds.get_attribute("aria-sort")) == ("ascending", "descending")


def test_by_keyboard_alone_another_column_takes_the_mark_of_the_sorted_one(opened):
    header(opened, "LDS").find_element(By.TAG_NAME, "button").click()
    button = header(opened, "Method").find_element(By.TAG_NAME, "button")
    for _ in range(100):
        if opened.switch_to.active_element == button:
            break
        opened.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)

    opened.switch_to.active_element.send_keys(Keys.ENTER)

    assert opened.switch_to.active_element == button
    assert header(opened, "LDS").get_attribute("aria-sort") is None
    assert header(opened, "Method").get_attribute("aria-sort") == "ascending"
    assert column(opened, 1) == [LONG, "BIF", "EK-FAC", "random"]


def test_every_table_sorts_by_every_column_and_keeps_its_rows(opened):
    script = """
        const problems = [];
        for (const table of document.querySelectorAll("table.sortable")) {
          const before = [...table.tBodies[0].rows].map((row) => row.innerText).sort();
          for (const button of table.querySelectorAll("th button")) {
            for (const turn of [1, -1]) {
              button.click();
              const column = button.parentElement.cellIndex;
              const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
              const known = cells.filter((cell) => cell.dataset.order !== undefined);
              if (known.some((cell, place) => cell !== cells[place])) problems.push("missing before known");
              const numbers = known.filter((cell) => cell.classList.contains("number"));
              const values = numbers.map((cell) => Number(cell.dataset.order));
              for (let place = 1; place < values.length; place += 1)
                if (turn * (values[place] - values[place - 1]) < 0) problems.push(button.innerText);
            }
          }
          const after = [...table.tBodies[0].rows].map((row) => row.innerText).sort();
          if (before.join() !== after.join()) problems.push("rows changed");
        }
        return problems;
    """
    unfold(opened)

    assert opened.execute_script(script) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_never_scrolls_sideways(browser, addresses, page):
    for width in (360, 768, 1280):
        show(browser, width=width, scheme="light")
        browser.get(addresses[page])
        unfold(browser)

        scroll, window, boxes = browser.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth, [...document.querySelectorAll('.scroll')]"
            ".filter(box => box.scrollWidth > box.clientWidth).length]"
        )

        assert window == width, "a phone widens its window where something overflows"
        assert scroll <= width
        assert boxes > 0 or page != "report.html", "wide tables scroll in their boxes"


CONTRASTS = """
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const over = (top, ground) => {
      const alpha = top[3] ?? 1;
      return [0, 1, 2].map((place) => alpha * top[place] + (1 - alpha) * ground[place]);
    };
    const luminance = (colour) => {
      const [r, g, b] = colour.map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
      if (!element) return [255, 255, 255];
      return over(parts(getComputedStyle(element).backgroundColor), ground(element.parentElement));
    };
    const low = [];
    let seen = 0;
    for (const element of document.body.querySelectorAll("*")) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
      if (!own || !element.checkVisibility() || element.tagName === "SCRIPT") continue;
      const both = [luminance(parts(getComputedStyle(element).color).slice(0, 3)), luminance(ground(element))];
      const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
      seen += 1;
      if (ratio < 4.5) low.push([element.tagName, element.className, element.innerText, ratio]);
    }
    return [low, seen];
"""


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast_on_the_fullest_colours_too(browser, addresses, page, scheme):
    show(browser, width=1280, scheme=scheme)
    browser.get(addresses[page])
    unfold(browser)
    browser.execute_script(
        "document.querySelectorAll('.text span:not(.muted)').forEach((span, place) => {"
        "  span.classList.add(place % 2 ? 'helpful' : 'harmful');"
        "  span.style.setProperty('--strength', 1);"
        "})"
    )

    low, seen = browser.execute_script(CONTRASTS)

    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 27)"}[scheme]
    assert seen > {"report.html": 200, "17.html": 50, "index.html": 5}[page]
    assert low == []


def test_without_scripts_everything_is_there_but_sorting(opened, addresses):
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(addresses["report.html"])

        assert opened.find_elements(By.TAG_NAME, "button") == []
        assert "lead" in opened.find_element(By.TAG_NAME, "header").text
        assert opened.find_element(By.XPATH, "(//table)[1]//td[2]").text == "EK-FAC"
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
