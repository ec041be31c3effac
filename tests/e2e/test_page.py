"""A reader's journeys in the page: a real Chromium against the whole system."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from services.local.demo import sample_questions
from tests.e2e.conftest import ROOT, LiveSystem

Json = dict[str, Any]

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_MISSING = (
    "Chromium is missing. As root: apt-get update && "
    "apt-get install -y --no-install-recommends chromium fonts-dejavu-core"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
READ_MS = 600_000  # a whole book on two busy cores
ANSWER_MS = 120_000
DESK, PHONE = {"width": 1360, "height": 850}, {"width": 320, "height": 640}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def page_browser() -> Iterator[Browser]:
    assert CHROMIUM.exists(), CHROMIUM_MISSING
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(page_browser: Browser, live_system: LiveSystem) -> Iterator[Page]:
    """An empty browser before the library. A page that throws, or breaks its own content policy, fails its test."""
    assert (ROOT / "web/dist/index.html").is_file(), "The page is not built. Run: make web"
    context = page_browser.new_context(viewport=DESK, base_url=live_system.base_url)
    made, complaints = context.new_page(), []
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    made.goto("/")
    yield made
    context.close()
    assert complaints == []


# ---- what a reader does ----------------------------------------------------------------------------------------------


def shelf(page: Page, title: str) -> Locator:
    """A source in the library, by the beginning of its title."""
    return page.get_by_role("complementary", name="Library").get_by_role("button", name=re.compile(f"^{title}"))


def open_book(page: Page, book: Json) -> None:
    page.goto(f"/#source={book['id']}")
    expect(page.get_by_role("heading", name=book["title"], level=2)).to_be_visible()


def ask(page: Page, question: str) -> Locator:
    """Asks, and waits for the whole answer."""
    turns = page.locator("article.turn")
    before = turns.count()
    page.get_by_label("Ask about this text").fill(question)
    page.keyboard.press("Enter")
    turn = turns.nth(before)
    expect(turn.get_by_role("heading", name=question)).to_be_visible()
    expect(turn.locator("footer")).to_be_visible(timeout=ANSWER_MS)
    return turn


def ask_until_quoted(page: Page) -> Locator:
    """The first of the sample's questions that is answered with a quote."""
    for question in sample_questions():
        turn = ask(page, question)
        if turn.get_by_role("list", name="Quotes").count():
            return turn
    pytest.fail("no question about the sample book was answered with a quote")


def marked(page: Page) -> str:
    """What is marked as the active quote, once it is seen on the screen."""
    marks = page.locator("mark[data-active]")
    expect(marks.first).to_be_in_viewport()
    return "".join(marks.all_text_contents())


def last_message(page: Page, system: LiveSystem) -> Json:
    session = re.search(r"session=(\w[\w-]*)", page.url)
    assert session, page.url
    return system.rest.call("GET", f"/v1/sessions/{session[1]}/messages")["data"][-1]


def letters(text: str) -> str:
    """Without the line ends and spaces that a paragraph's end takes away."""
    return "".join(text.split())


# ---- journeys --------------------------------------------------------------------------------------------------------


def test_a_book_is_dropped_in_read_asked_and_the_quote_is_marked_in_its_text(
    page: Page, live_system: LiveSystem, sample_book: Path
) -> None:
    page.get_by_label("Files to add").set_input_files(sample_book)
    bar = page.get_by_role("progressbar", name=re.compile("^Reading"))
    expect(bar).to_be_visible()
    expect(page.get_by_placeholder("You can ask once it has been read")).to_be_visible()
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"\d+ %.*tokens/s"), timeout=READ_MS)
    expect(bar).to_be_hidden(timeout=READ_MS)
    title = re.search(r"^# (.+)$", sample_book.read_text(encoding="utf-8"), re.M)
    assert title
    expect(shelf(page, title[1]).first).to_contain_text("Read")
    expect(page.get_by_role("navigation", name="Chapters").get_by_role("button").first).to_be_visible()

    turn = ask_until_quoted(page)
    quote = last_message(page, live_system)["quotes"][0]
    chip = turn.get_by_role("button", name=re.compile("^Quote 1,")).first
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    assert letters(marked(page)) == letters(quote["text"])
    expect(page.locator(".quote-bar")).to_contain_text(re.compile(rf"Quote 1 .*lines? {quote['line'][0]}"))


def test_one_whole_journey_needs_no_mouse(page: Page, live_system: LiveSystem, book: Json) -> None:
    """From the top of the page to a marked quote and back, with keys alone."""
    source = shelf(page, book["title"]).first
    expect(source).to_be_visible()
    for _ in range(60):
        page.keyboard.press("Tab")
        if source.evaluate("element => element === document.activeElement"):
            break
    expect(source).to_be_focused()
    assert source.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=book["title"], level=2)).to_be_visible()

    for question in sample_questions():
        page.keyboard.press("/")
        expect(page.get_by_label("Ask about this text")).to_be_focused()
        page.keyboard.type(question)
        page.keyboard.press("Enter")
        expect(page.locator("article.turn", has_text=question).locator("footer")).to_be_visible(timeout=ANSWER_MS)
        page.keyboard.press("F6")
        if last_message(page, live_system)["quotes"]:
            break
    quotes = last_message(page, live_system)["quotes"]
    page.keyboard.press("n")
    assert letters(marked(page)) == letters(quotes[0]["text"])
    if len(quotes) > 1:
        page.keyboard.press("n")
        assert letters(marked(page)) == letters(quotes[1]["text"])
        page.keyboard.press("p")
        assert letters(marked(page)) == letters(quotes[0]["text"])
    expect(page.get_by_label("Answer", exact=True)).not_to_be_empty()


def test_a_reload_comes_back_to_the_same_book_conversation_and_place(page: Page, book: Json) -> None:
    open_book(page, book)
    chapters = page.get_by_role("navigation", name="Chapters").get_by_role("button")
    third = chapters.nth(2)
    third.click()
    expect(third).to_have_attribute("aria-current", "true")
    question = sample_questions()[0]
    answer = ask(page, question).locator(".said").inner_text()
    page.reload()
    turn = page.locator("article.turn")
    expect(turn.get_by_role("heading", name=question)).to_be_visible()
    assert turn.locator(".said").inner_text() == answer
    expect(third).to_have_attribute("aria-current", "true")


def test_a_summary_points_into_the_text(page: Page, live_system: LiveSystem, book: Json) -> None:
    summaries = live_system.rest.summaries(book)
    live_system.wait(summaries["job_id"] or live_system.rest.summarise(book)["job_id"])
    open_book(page, book)
    page.get_by_role("tab", name="Summaries").click()
    whole = page.get_by_role("tabpanel", name="Summaries").locator(
        "article", has=page.get_by_role("heading", name="The whole")
    )
    whole.get_by_role("button", name=re.compile("^Quote 1,")).first.click()
    quote = live_system.rest.summaries(book)["whole"]["quotes"][0]
    assert letters(marked(page)) == letters(quote["text"])


def test_a_new_version_is_chosen_by_keyboard_and_only_its_tail_is_read(
    page: Page, live_system: LiveSystem, tmp_path: Path
) -> None:
    text = "# Ships\n\n## One\n\n" + "The brig Alma came in on the morning tide.\n\n" * 60 + "## Two\n\nFog.\n\n"
    (tmp_path / "ships.md").write_text(text)
    old = live_system.read(tmp_path / "ships.md")
    (tmp_path / "ships.md").write_text(text + "## Three\n\nThe pilot's name was Ulla Brandt.\n")
    page.on("filechooser", lambda _: None)  # or the driver may begin to listen after Chromium has opened the dialog
    open_book(page, old)
    page.reload()  # the shelf was fetched before the book stood on it
    page.get_by_role("button", name=f"New version… of {old['title']}").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "ships.md")
    head = page.get_by_role("main").locator(".reader-head")
    expect(head).to_contain_text(re.compile(r"tokens · \d+ of them taken over, \d+ read anew"), timeout=READ_MS)
    expect(page.get_by_role("navigation", name="Chapters").get_by_role("button")).to_have_count(3)
    made = live_system.rest.call("GET", "/v1/documents")["data"][0]
    reading = live_system.rest.source(made)["reading"]
    assert made["previous"] == old["id"] and reading["read_tokens"] < reading["shared_tokens"]


def test_the_models_words_are_shown_as_provisional_and_give_way_to_the_checked_answer(page: Page, book: Json) -> None:
    open_book(page, book)
    page.evaluate(
        """() => {
            window.drafts = []
            const look = () => window.drafts.push(...[...document.querySelectorAll('.draft')].map((e) => e.innerText))
            new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true })
        }"""
    )
    turn = ask_until_quoted(page)
    drafts = page.evaluate("window.drafts")
    assert any("not checked yet" in words and "“" in words for words in drafts)
    expect(page.locator(".draft")).to_have_count(0)
    expect(turn.locator(".said")).to_be_visible()


def test_the_library_says_what_the_readings_take(page: Page, book: Json) -> None:
    expect(page.locator(".storage")).to_contain_text(re.compile(r"\d+ readings?: [\d.]+ [KMG]B"))


# ---- promises --------------------------------------------------------------------------------------------------------


def events(*what: tuple[str, Json]) -> str:
    return "".join(f"event: {event}\ndata: {json.dumps(data)}\n\n" for event, data in what)


def test_offsets_count_code_points_so_a_quote_after_emoji_is_marked_to_the_letter(
    page: Page, live_system: LiveSystem, tmp_path: Path
) -> None:
    """The text is the server's; the answer is made up here, so that the quote is known."""
    sentence = "The 𝔸lpha lamp 栞 burned all night."
    text = "# Lamps 😀\n\n" + "😀🏮 Nothing to see here. 𝔹\n\n" * 700 + sentence + " 😀 Then it rained.\n"
    (tmp_path / "lamps.md").write_text(text, encoding="utf-8")
    source = live_system.read(tmp_path / "lamps.md")
    start = text.index(sentence)
    where = {
        "source_id": source["id"],
        "char": [start, start + len(sentence)],
        "line": [1403, 1403],
        "chapter": 0,
        "page": None,
    }
    quote = {"n": 1, "text": sentence, "match": "exact", "span": [3, 3 + len(sentence)], "path": None, **where}
    answer = {"id": "msg_a", "answer": f"😀 “{sentence}”", "quotes": [quote], "origin": "read", "usage": None}
    answer["timing"] = {"restore_ms": 412.0}
    stream = events(("message.created", {"id": "msg_a"}), ("citation", quote), ("message.completed", answer))
    reply = {"status": 200, "content_type": "text/event-stream", "body": stream}
    page.route(
        "**/messages", lambda route: route.fulfill(**reply) if route.request.method == "POST" else route.continue_()
    )
    open_book(page, source)
    turn = ask(page, "What burned?")
    expect(turn).to_contain_text("from the full reading")
    expect(turn).to_contain_text("resumed in 0.4 s")
    turn.get_by_role("button", name=re.compile("^Quote 1,")).first.click()
    assert marked(page) == sentence


def test_escape_stops_an_answer_and_it_can_be_asked_again(page: Page, book: Json) -> None:
    held: list[Route] = []
    page.route("**/messages", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    open_book(page, book)
    page.get_by_label("Ask about this text").fill("What takes so long?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    page.keyboard.press("Escape")


def test_what_goes_wrong_is_said_in_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    page.get_by_label("Files to add").set_input_files(tmp_path / "empty.txt")
    expect(page.get_by_role("alert")).to_contain_text("empty.txt is empty")
    page.goto("/#source=doc_nowhere")
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("doc_nowhere")


def test_a_server_that_asks_for_a_key_gets_it_from_the_settings(page: Page) -> None:
    """The page sends the key once it has been entered; a refusal leads to where it is entered."""
    refusal = {"title": "Key needed", "status": 401, "detail": "This server asks for a key.", "code": "unauthenticated"}
    seen: list[str] = []

    def guard(route: Route) -> None:
        seen.append(route.request.headers.get("authorization", ""))
        if seen[-1] == "Bearer sesame":
            return route.continue_()
        return route.fulfill(status=401, content_type="application/problem+json", body=json.dumps(refusal))

    page.route("**/v1/**", guard)
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("asks for a key")
    page.get_by_role("button", name="Enter the key").click()
    page.get_by_label("Key for this server").fill("sesame")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    assert seen[-1] == "Bearer sesame"


def test_letters_are_not_shortcuts_while_typing_or_when_turned_off(page: Page, book: Json) -> None:
    open_book(page, book)
    box = page.get_by_label("Ask about this text")
    box.click()
    page.keyboard.type("n/p")
    expect(box).to_have_value("n/p")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Single keys work as shortcuts").uncheck()
    page.get_by_role("button", name="Save").click()
    page.keyboard.press("/")
    expect(box).not_to_be_focused()


def test_everything_that_can_be_pressed_has_a_name_and_every_panel_is_a_landmark(page: Page, book: Json) -> None:
    open_book(page, book)
    for role, name in (("complementary", "Library"), ("main", "Text"), ("complementary", "Ask")):
        expect(page.get_by_role(role, name=name)).to_be_visible()  # type: ignore[arg-type]
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    nameless = page.get_by_role("button", name=re.compile(r"^\s*$")).or_(
        page.get_by_role("textbox", name=re.compile(r"^\s*$"))
    )
    expect(nameless).to_have_count(0)


def test_a_narrow_screen_shows_one_panel_at_a_time_and_never_scrolls_sideways(page: Page, book: Json) -> None:
    """320 pixels are also what 400 % zoom leaves of a desk's screen."""
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    open_book(page, book)
    for name, landmark in (("Library", "complementary"), ("Text", "main"), ("Ask", "complementary")):
        page.get_by_role("navigation", name="Panels").get_by_role("button", name=name).click()
        expect(page.get_by_role(landmark, name=name)).to_be_visible()  # type: ignore[arg-type]
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
