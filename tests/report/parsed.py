"""A page as its parser sees it: enough of HTML to ask what is in it, and to find what is not closed."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "img", "br", "hr", "line", "circle", "path", "rect"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: "Element | None" = None
    children: "list[Element]" = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def all(self, tag: str | None = None, **attributes: str) -> "list[Element]":
        """Elements inside, in order; attributes as given, `class_` for one of the classes."""
        found = [self] if self._is(tag, attributes) else []
        return found + [hit for child in self.children for hit in child.all(tag, **attributes)]

    def _is(self, tag: str | None, attributes: dict[str, str]) -> bool:
        classes = self.attributes.get("class", "").split()
        return (tag is None or self.tag == tag) and all(
            wanted in classes if key == "class_" else self.attributes.get(key) == wanted
            for key, wanted in attributes.items()
        )

    def one(self, tag: str | None = None, **attributes: str) -> "Element":
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        """With single spaces."""
        return " ".join(" ".join(self._text()).split())

    def _text(self) -> list[str]:
        return [*self.texts, *(part for child in self.children for part in child._text())]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("root", {})
        self.at = self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {tag} {names}"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.children.append(Element(tag, {name: value or "" for name, value in attrs}, self.at))

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag and self.at.parent is not None, f"</{tag}> closes <{self.at.tag}>"
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        # as a text of its own, so that texts stay in order
        self.at.children.append(Element("#text", {}, self.at, texts=[data]))


def parse(page: str) -> Element:
    """The root; fails where an element is not closed, or is closed twice."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert builder.at is builder.root, f"<{builder.at.tag}> is not closed"
    return builder.root
