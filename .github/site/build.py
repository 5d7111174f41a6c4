"""Build the site: the public interface on one page, each guide (the docstring of a folder) on a page of its own.

    python .github/site/build.py FOLDER

A warning is an error, and so is a link inside the site, or a name of ours in a docstring, that leads nowhere. Formulae
are set in the browser by MathJax, which the pages load from a CDN.
"""

import os
import re
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from pydoc import locate
from urllib.parse import unquote, urldefrag, urlsplit

import pdoc
from jinja2 import pass_context
from markupsafe import Markup
from pdoc.render_helpers import linkify, relative_link, to_markdown_with_context

import structurenet_pl
from structurenet_pl.lightning import Callback

PACKAGE = Path(structurenet_pl.__file__).parent
HOME = "structurenet_pl"
REPOSITORY = re.search(r'^Source = "(.+)"$', (PACKAGE.parent / "pyproject.toml").read_text(), re.MULTILINE)[1]
PUBLIC = [getattr(structurenet_pl, name) for name in structurenet_pl.__all__]
NOT_SHOWN = ("__init__", "lightning", "pytorch_lightning")  # of the last, all names but one are those of HOME


def guides() -> list[str]:
    """Return the names of all folders, and of the modules beside them."""
    found = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    found += [path.stem for path in PACKAGE.glob("*.py") if path.stem not in NOT_SHOWN]
    return [f"{HOME}.{name}" for name in sorted(found)]


def source_url(doc: pdoc.doc.Doc) -> str | None:
    """Return where the repository defines something of ours."""
    if not (doc.source_file and doc.source_lines and doc.source_file.is_relative_to(PACKAGE)):
        return None
    commit = os.environ.get("GITHUB_SHA", "main")  # set by GitHub's runners; the lines are those of this commit
    path = doc.source_file.relative_to(PACKAGE.parent).as_posix()
    return f"{REPOSITORY}/blob/{commit}/{path}#L{doc.source_lines[0]}"


def is_shown(doc: pdoc.doc.Doc) -> bool:
    """Decide what has an entry: public names and, under a class, its constructor and what else has a docstring.

    What a public base class has is described there, and Lightning's hooks are described by Lightning.
    """
    if isinstance(doc, pdoc.doc.Module):
        return doc.fullname in (HOME, *guides())
    owner, _, member = doc.qualname.partition(".")
    if not member:
        return owner in structurenet_pl.__all__
    if not doc.taken_from[0].startswith(HOME):
        return False
    if doc.name == "__init__":
        return bool(doc.signature_without_self.parameters)
    bases = {Callback, *getattr(structurenet_pl, owner).__mro__[1:]} & {Callback, *PUBLIC}
    is_described_there = any(hasattr(base, doc.name) for base in bases)
    has_text = doc.docstring and not doc.docstring.startswith("Alias for field number")  # Python's, of named tuples
    return bool(has_text) and not doc.name.startswith("_") and not is_described_there


@pass_context
def link_names(context, html: str, **options) -> Markup:
    """Link public names on every page; pdoc by itself links them on their own page only."""

    def link(match: re.Match) -> str:
        address = relative_link(context["module"].modulename, HOME)
        return f'<a href="{address}#{match[0]}">{match[0]}</a>' if match[0] in structurenet_pl.__all__ else match[0]

    return Markup(re.sub(r"(?<=<code>)\w+(?=</code>|\()", link, linkify(context, html, **options)))


@pass_context
def to_markdown(context, docstring: str) -> str:
    r"""Keep the backslashes of formulas, of which Markdown would take ``\\`` and ``\{`` for escapes."""
    return re.sub(
        r"(?<=\$\$).+?(?=\$\$)|(?<=\\\\\().+?(?=\\\\\))",
        lambda formula: formula[0].replace("\\", "\\\\"),
        to_markdown_with_context(context, docstring),
        flags=re.DOTALL,
    )


class Page(HTMLParser):
    """The anchors of a page, its links, and what it shows as code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.links, self.code = {""}, set(), set()
        self._in_code = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.add(values.get("id") or "")
        self._in_code = tag == "code"
        if tag == "a":
            self.links.add(values.get("href") or "")

    def handle_data(self, data: str) -> None:
        if self._in_code:
            self.code.add(data)


def dead_references(folder: Path) -> list[str]:
    """Return links inside the site, and dotted names of the package, that lead nowhere."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            address, anchor = urldefrag(link)
            target = (path.parent / unquote(address)).resolve() if address else path
            if not urlsplit(link).scheme and (target not in pages or unquote(anchor) not in pages[target].anchors):
                dead.append(f"{path.name}: link to {link}")
        names = {name for name in page.code if re.fullmatch(rf"{HOME}(\.\w+)+", name)}
        dead += [f"{path.name}: {name} does not exist" for name in names if locate(name) is None]
    return sorted(dead)


def build(folder: Path) -> None:
    """Write the site into a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.render.configure(
            docformat="google",
            math=True,
            footer_text=f"structurenet_pl {structurenet_pl.__version__}",
            template_directory=Path(__file__).parent,
        )
        # no option has pdoc show what a class inherits from base classes that have no page; is_shown selects
        pdoc.doc.Class.own_members = property(lambda cls: list(cls.members.values()))
        pdoc.render.env.filters.update(linkify=link_names, to_markdown=to_markdown)
        pdoc.render.env.globals.update(source_url=source_url, is_shown=is_shown, guides=guides())
        pdoc.pdoc(HOME, *guides(), *(rf"!{re.escape(guide)}\..+" for guide in guides()), output_directory=folder)
    if dead := dead_references(folder):
        sys.exit("The site has references that lead nowhere:\n" + "\n".join(dead))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build(Path(sys.argv[1]))
