"""XML files: comments and layout are kept by lxml, and nothing outside the file is ever read."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

import attrs
from lxml import etree

from wingsd.egg_files.changes import Change, NotDone

_DECLARATION = re.compile(r"\s*<\?xml\s[^>]*\?>\s*")
#: Before the root: blanks, comments, processing instructions, a document type. All quantifiers
#: are possessive: backtracking would take for ever.
_PROLOG = re.compile(
    r"""(?: \s | <!--(?:(?!-->).)*+--> | <\?(?:(?!\?>).)*+\?>
      | <!DOCTYPE (?:[^\[<>"']|"[^"]*"|'[^']*')*+
        (?: \[ (?: [^\]"'<] | "[^"]*" | '[^']*'
             | <!--(?:(?!-->).)*+--> | <\?(?:(?!\?>).)*+\?> | < )*+ \] \s*+ )? >
    )*+(?=<[^!?])""",
    re.DOTALL | re.VERBOSE,
)
_DEFAULT_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\n'
_STEP = re.compile(r"(?:[^.\[]|\[[^\]]*\])+")
_NAMED = re.compile(r"(?P<name>[^\W\d][\w:-]*|\*)(?P<predicates>(?:\[[^\]]*\])*)")
_ATTRIBUTE_IS = re.compile(r"""\[@(?P<name>[\w:-]+)=(?P<quote>['"])(?P<value>.*?)(?P=quote)\]""")
_SET_ATTRIBUTE = re.compile(r"\[(\w+)='(.*)'\]", re.DOTALL)


class XmlFile:
    """Elements below one root. Raises NotDone for invalid XML."""

    def __init__(self, source: str) -> None:
        found = _DECLARATION.match(source)
        self._declaration = found[0] if found else ""
        body = source[len(self._declaration) :]
        self._source = source
        self._root = _parsed(body) if body.strip() else None
        prolog = _PROLOG.match(body)
        if self._root is not None and prolog is None:
            raise NotDone("the text before its root element could not be kept")
        self._prolog = prolog[0] if prolog else ""
        self._end = body[len(body.rstrip()) :]
        self._is_new = self._root is None
        self._changed = False

    def apply(self, change: Change) -> None:
        """Set the text of `Root.Element`, or with a value like `[name='text']` an attribute.

        A step may have a predicate, `property[@name='ServerPort']`, and may be `*`. A missing
        element is made, unless there is a wildcard. Raises NotDone where that cannot be.
        """
        path = [_step(step) for step in _STEP.findall(change.match)]
        if not path:
            raise NotDone("the path names no element")
        _check(change.text)
        may_add = not change.conditional and all(step.name != "*" for step in path)
        if self._root is None:
            if not may_add:
                return
            _check_new(path, {})
        elements = self._top(path[0])
        for at, step in enumerate(path[1:], 1):
            below = [child for element in elements for child in step.below(element)]
            if not below and elements and may_add:
                _check_new(path[at:], elements[0].nsmap)
                below = [_added(elements[0], step)]
                self._changed = True
            elements = below
        for element in elements:
            self._set(element, change)

    def text(self) -> str:
        """Return the document with its declaration, as it was where nothing was changed."""
        if self._root is None or not self._changed:
            return self._source
        if self._is_new:
            etree.indent(self._root)
            declaration = self._declaration or _DEFAULT_DECLARATION
            return f"{declaration}{_serialized(self._root)}\n"
        body = "\n".join(map(_serialized, [self._root, *self._root.itersiblings()]))
        return f"{self._declaration}{self._prolog}{body}{self._end}"

    def _top(self, step: _Step) -> list[etree._Element]:
        if self._root is None:
            self._root = etree.Element(step.name, step.attributes())
            self._changed = True
        name = etree.QName(self._root).localname
        if step.name not in ("*", name, step.prefixed(self._root)):
            raise NotDone(f"the root element is {name}, not {step.name}")
        return [self._root]

    def _set(self, element: etree._Element, change: Change) -> None:
        if attribute := _SET_ATTRIBUTE.fullmatch(change.text):
            name, value = attribute.groups()
            found = element.get(name)
            new = attrs.evolve(change, value=value).new_text(found)
            if new is not None and new != found:
                try:
                    element.set(name, new)
                except ValueError as error:
                    raise NotDone(f"there can be no attribute {name}: {error}") from error
                self._changed = True
            return
        found = _text(element)
        new = change.new_text(found.strip())
        if new is not None and new not in (found, found.strip()):
            _set_text(element, new)
            self._changed = True


@attrs.frozen
class _Step:
    name: str
    predicates: str

    def below(self, element: etree._Element) -> list[etree._Element]:
        prefixes = {prefix: uri for prefix, uri in element.nsmap.items() if prefix}
        try:
            return list(element.findall(self._tag(element) + self.predicates, prefixes))
        except (SyntaxError, ValueError) as error:
            text = f"{self.name}{self.predicates}"
            raise NotDone(f"{text} is not a step of a path: {error}") from error

    def _tag(self, parent: etree._Element) -> str:
        uri = parent.nsmap.get(None)
        return f"{{{uri}}}{self.name}" if uri and re.fullmatch("[^:*]+", self.name) else self.name

    def attributes(self) -> dict[str, str]:
        """Return the attributes that an element must have for the predicates to be true."""
        found = list(_ATTRIBUTE_IS.finditer(self.predicates))
        if "".join(match[0] for match in found) != self.predicates:
            raise NotDone(f"there is no element {self.name}{self.predicates}")
        return {match["name"]: match["value"] for match in found}

    def prefixed(self, root: etree._Element) -> str:
        return self.name if root.prefix and self.name.startswith(f"{root.prefix}:") else ""


def _step(text: str) -> _Step:
    found = _NAMED.fullmatch(text)
    if found is None:
        raise NotDone(f"{text!r} is not an element's name")
    return _Step(found["name"], found["predicates"])


def _parsed(body: str) -> etree._Element:
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        strip_cdata=False,
    )
    try:
        return etree.fromstring(body.encode("utf-8"), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
        if getattr(error, "code", None) == etree.ErrorTypes.ERR_NO_MEMORY:
            raise MemoryError from error
        raise NotDone(f"it is not XML: {error}") from error


def _check(value: str) -> None:
    """Refuse a value that XML cannot hold, before any element is made for it."""
    try:
        etree.Element("value").text = value
    except ValueError as error:
        raise NotDone(f"the value cannot be written in XML: {error}") from error


def _serialized(node: etree._Element) -> str:
    return str(etree.tostring(node, encoding="unicode", with_tail=False))


def _check_new(steps: Iterable[_Step], prefixes: Container[str | None]) -> None:
    """Refuse a step for which no element can be made, before one is made for any of them."""
    for step in steps:
        prefix, colon, local = step.name.rpartition(":")
        try:
            etree.Element(local, step.attributes())
        except ValueError as error:
            raise NotDone(f"there can be no {step.name}{step.predicates}: {error}") from error
        if colon and prefix not in prefixes:
            raise NotDone(f"there can be no {step.name}: the prefix {prefix} has no namespace")


def _added(parent: etree._Element, step: _Step) -> etree._Element:
    """Add an element to `parent`, in its namespace and indented as its neighbours are."""
    uri = etree.QName(parent).namespace
    if ":" in step.name:
        prefix, _, local = step.name.partition(":")
        uri, name = parent.nsmap[prefix], local
    else:
        name = step.name
    child = etree.Element(f"{{{uri}}}{name}" if uri else name, step.attributes())
    if len(parent):
        parent[-1].tail, child.tail = _blank(parent.text), parent[-1].tail
    elif not _blank(parent.text).strip() and (own := _indentation(parent)):
        unit = "\t" if "\t" in own else "  "
        parent.text, child.tail = own + unit, own
    parent.append(child)
    return child


def _indentation(element: etree._Element) -> str:
    """Return the line break and blanks before an element; "" where it is not on its own line."""
    before = element.getprevious()
    above = element.getparent()
    if above is None:
        return "\n"
    space = _blank(before.tail if before is not None else above.text)
    return "\n" + space.rpartition("\n")[2] if "\n" in space else ""


def _blank(text: str | None) -> str:
    return text if text and not text.strip() else ""


def _is_leaf(element: etree._Element) -> bool:
    return not any(isinstance(child.tag, str) for child in element)


def _text(element: etree._Element) -> str:
    tails = [child.tail or "" for child in element] if _is_leaf(element) else []
    return "".join([element.text or "", *tails])


def _set_text(element: etree._Element, text: str) -> None:
    """Set an element's text; comments in it stay, elements in it as well."""
    element.text = text
    if _is_leaf(element):
        for comment in element:
            comment.tail = None
