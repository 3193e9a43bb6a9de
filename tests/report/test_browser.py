"""The page in a browser, from a file and without a network, as people open it."""

import json
from pathlib import Path

import pandas as pd
import pytest
from made_up import FIGURES, make_lds, make_material, make_tables
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from tdabench.report.page import render_page

pytestmark = pytest.mark.browser
LONG = "a_method_with_a_name_that_is_far_too_long_for_the_screen_of_any_phone_that_there_is"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    tables = make_tables(sizes=(400,), status="ok; warning: " + "very" * 40)
    tables["lds"].loc[tables["lds"]["method"] == "gradsim", "method"] = LONG
    tables["lds"].loc[tables["lds"]["method"] == "random", ["lds", "low", "high"]] = None
    tables["many_columns"] = pd.DataFrame({f"column_number_{place}": [place] for place in range(40)})
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(make_material(tables=tables, name="an_experiment_" * 6)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """Open the page in a window of a desktop's width, in the light scheme."""
    show(browser, width=1280, scheme="light")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(address)
    return browser


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


def test_the_page_opens_without_an_error_and_asks_the_network_for_nothing(opened):
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]

    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert opened.get_log("browser") == []
    assert any(address.startswith("file:") for address in asked)
    assert [address for address in asked if not address.startswith(("file:", "data:"))] == []
    assert "an_experiment" in opened.title


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


def test_another_column_takes_the_mark_of_the_sorted_one(opened):
    for name in ("LDS", "Method"):
        header(opened, name).find_element(By.TAG_NAME, "button").click()

    assert header(opened, "LDS").get_attribute("aria-sort") is None
    assert header(opened, "Method").get_attribute("aria-sort") == "ascending"
    assert column(opened, 1) == [LONG, "BIF", "EK-FAC", "random"]


def test_a_table_is_sorted_by_keyboard_alone(opened):
    button = header(opened, "Method").find_element(By.TAG_NAME, "button")
    for _ in range(100):
        if opened.switch_to.active_element == button:
            break
        opened.switch_to.active_element.send_keys(Keys.TAB)

    opened.switch_to.active_element.send_keys(Keys.ENTER)

    assert opened.switch_to.active_element == button
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
    opened.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")

    assert opened.execute_script(script) == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_never_scrolls_sideways(opened, width):
    show(opened, width=width, scheme="light")
    opened.refresh()
    opened.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")

    page, window = opened.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    boxes = opened.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
    )

    assert window == width, "a phone widens its window where something overflows"
    assert page <= width
    assert boxes > 0, "wide tables scroll in their boxes"


CONTRASTS = """
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => {
      const [r, g, b] = parts(colour).slice(0, 3).map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = getComputedStyle(at).backgroundColor;
        const alpha = parts(colour)[3];
        if (alpha === undefined || alpha === 1) return colour;
      }
      return "rgb(255, 255, 255)";
    };
    const low = [];
    let seen = 0;
    for (const element of document.body.querySelectorAll("*")) {
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
      if (!own || !element.checkVisibility() || element.tagName === "SCRIPT") continue;
      const both = [luminance(getComputedStyle(element).color), luminance(ground(element))];
      const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
      seen += 1;
      if (ratio < 4.5) low.push([element.tagName, element.innerText, ratio]);
    }
    return [low, seen, getComputedStyle(document.body).backgroundColor];
"""


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 22, 27)")])
def test_every_text_on_the_page_has_enough_contrast(opened, scheme, ground):
    show(opened, width=1280, scheme=scheme)
    opened.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")

    low, seen, found = opened.execute_script(CONTRASTS)

    assert found == ground
    assert seen > 200
    assert low == []


def test_without_scripts_everything_is_there_but_sorting(opened, address):
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(address)

        assert opened.find_elements(By.TAG_NAME, "button") == []
        assert "EK-FAC leads" in opened.find_element(By.TAG_NAME, "header").text
        assert opened.find_element(By.XPATH, "(//table)[1]//td[2]").text == "EK-FAC"
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_hostile_text_runs_nothing(opened, tmp_path):
    attack = "<img src=x onerror=\"document.title='attacked'\"><script>document.title='attacked'</script>"
    lds = make_lds(repeats=1).assign(status=attack)
    path = tmp_path / "hostile.html"
    path.write_text(render_page(make_material(tables={"lds": lds}, name="')\";document.title='attacked'")))

    opened.get(path.as_uri())

    assert "attacked'" in opened.find_element(By.TAG_NAME, "h1").text
    assert opened.title != "attacked"
    assert opened.get_log("browser") == []
