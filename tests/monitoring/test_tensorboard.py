"""What TensorBoard shows of a growing run, looked up in a real browser.

Screenshots go to the folder that SCREENSHOTS names, if it is set.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no browser: apt-get install chromium chromium-driver"),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "growing_digits.py"
RUN = "growing_digits/version_0"
COMPONENTS = ["scaffold.0", "scaffold.1", "scaffold.2", "head", "patches.0", "patches.1", "necks.0"]
GROUPS = ["epoch", "hp_metric", "lr", "strata", "strata.details", "test_accuracy", "train_loss", "val_accuracy"]
BIRTHS = {"patches.0": 51, "patches.1": 102, "necks.0": 153}  # after 3, 6 and 9 epochs of 17 steps
SAMPLES = "scalars=5000,images=200,text=200"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--window-size=1400,1300"]

# TensorBoard is made of components within components; what stands in them is found from the inside of each only. It is
# asked in one script, because the page may change between two.
SHOWN = """
const found = [];
(function walk(root) {
  for (const node of root.querySelectorAll('*')) {
    if (node.matches(selector) && node.checkVisibility()) found.push(node);
    if (node.shadowRoot) walk(node.shadowRoot);
  }
})(document.body);
"""
WIDTH = "node => node.getBoundingClientRect().width"
RIGHT = "node => node.getBoundingClientRect().right"
OWN_TEXT = """\
found.map(node => [...node.childNodes].filter(part => part.nodeType === Node.TEXT_NODE)
  .map(part => part.textContent).join(' ').trim()).filter(text => text)
"""


class Page:
    """A page of TensorBoard, as it stands on the screen."""

    def __init__(self, browser, url, folder):
        self.browser, self.url, self.folder = browser, url, folder

    @contextmanager
    def open(self, name, screenshot=None):
        self.browser.get("about:blank")  # or nothing but the part behind the # changes, and nothing is loaded
        self.browser.get(f"{self.url}/#{name}")
        try:
            yield
        finally:
            self.browser.save_screenshot(str(self.folder / f"{screenshot or name}.png"))

    def shown(self, selector):
        """The elements that are shown, when there are any."""
        return self.wait_for(lambda: self.ask("found", selector))

    def texts(self):
        """What each element that is shown says itself."""
        return self.ask(OWN_TEXT, "*")

    def click(self, selector):
        self.wait_for(lambda: self.ask("found.map(node => node.click()).length", selector))

    def ask(self, expression, selector):
        """The value of a JavaScript expression of the elements that are ``found``."""
        return self.browser.execute_script(f"const [selector] = arguments; {SHOWN} return {expression};", selector)

    def wait_for_texts(self, *expected):
        try:
            self.wait_for(lambda: set(expected) <= set(self.texts()))
        except TimeoutError:
            pytest.fail(f"{sorted(set(expected) - set(self.texts()))} not shown among {self.texts()}")

    def wait_for(self, found, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if result := found():
                return result
            time.sleep(0.2)
        raise TimeoutError


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory):
    """The address of a TensorBoard that shows a run of the example."""
    folder = tmp_path_factory.mktemp("logs")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--epochs", "15", "--logdir", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--samples_per_plugin", SAMPLES]
    said = folder / "tensorboard.txt"
    with said.open("w") as file:
        server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", "0"], stdout=file, stderr=file)
    try:
        for _ in range(300):
            if found := re.search(r"http://127\.0\.0\.1:\d+", said.read_text()):
                break
            time.sleep(0.2)
        assert found, said.read_text()
        yield found[0]
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def page(tensorboard, tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Page(browser, tensorboard, folder)
    finally:
        browser.quit()


def test_first_page(page):
    with page.open("timeseries"):
        # of the groups, which it sorts by name, the first two are open: the pictures and Lightning's epoch
        page.wait_for(lambda: [len(page.ask("found", f"{kind}-card")) for kind in ("image", "scalar")] == [2, 1])
        shown = [text for text in page.texts() if text in ("LR", *GROUPS)]
        assert list(dict.fromkeys(shown)) == ["LR", *GROUPS]  # a card repeats the name of its group
        for picture in page.shown("image-card img"):
            page.wait_for(lambda picture=picture: picture.get_property("complete"))


def test_scalars(page):
    with page.open("scalars"):
        page.wait_for_texts(*GROUPS)
        headings = page.ask("found.map(node => node.innerText.split(/\\s/)[0])", "button.heading")
        assert headings == GROUPS
        page.click("button.heading:not([open-button])")  # only the first two groups of tags are open
        page.wait_for_texts(*(f"lr/{component}" for component in COMPONENTS))
        # a group shows its first twelve
        page.wait_for_texts(*(f"strata/factor/GrowthResponder/{component}" for component in COMPONENTS))
        page.wait_for_texts(*(f"strata.details/age/{component}" for component in COMPONENTS))


def test_custom_scalars(page):
    with page.open("custom_scalars"):
        page.wait_for_texts("Matches (7)", "Matches (1)")
        page.click(".toggle-matches-button")
        lines = [f"lr/{component} ({RUN})" for component in COMPONENTS]
        page.wait_for_texts(*lines, f"strata/lr_range/mean ({RUN})")
        page.wait_for(lambda: len(page.shown("vz-line-chart2[data-loaded-once]")) == 2)


def test_images(page):
    with page.open("images"):
        page.wait_for_texts("LR/heat_map", "LR/curves")
        page.wait_for(lambda: len(page.ask("found", "img")) == 2)
        pictures = page.shown("img")
        for picture, height in zip(pictures, (564, 560), strict=True):
            page.wait_for(lambda picture=picture: picture.get_property("complete"))
            assert (picture.get_property("naturalWidth"), picture.get_property("naturalHeight")) == (960, height)
            assert 300 <= picture.size["width"] <= 400  # the labels of the heat map are made for this
    with page.open("images", "images_in_actual_size"):
        page.wait_for_texts("LR/heat_map", "LR/curves")
        page.ask("found.find(node => node.innerText === 'Show actual image size').click()", "paper-checkbox")
        page.wait_for(lambda: page.ask(f"found.map({WIDTH})", "img") == [960, 960])
        # what stands out of the frame around a picture is cut off
        for right, frame in page.ask(f"found.map(node => [node, node.getRootNode().host].map({RIGHT}))", "img"):
            assert right <= frame <= 1400


def test_text(page):
    with page.open("text"):
        page.wait_for_texts("strata/components/text_summary", "strata/growth/text_summary")

        def tables():
            """The rows of both, which come one after the other."""
            found = [text.split() for text in page.ask("found.map(row => row.innerText)", "tr")]
            return found if {*COMPONENTS, "from"} <= {row[0] for row in found if row} else None

        rows = page.wait_for(tables)
        for component, step in BIRTHS.items():
            (row, *_) = [row for row in rows if row[3:6] == ["step", str(step), "on"]]
            assert component in row
            assert "GrowEvery" in row


def test_hparams(page):
    with page.open("hparams"):
        page.wait_for_texts(RUN, "density", "lr", "width", "0.0030000")
