"""URLs in one form, and those that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.errors import UrlInvalid, UrlSchemeRefused
from wingsd.http_client.urls import MAX_URL, WebUrl


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("http://Example.COM", "http://example.com/"),
        ("HTTPS://example.com.:443/a?b=c#d", "https://example.com/a?b=c"),
        ("http://example.com:8080?q", "http://example.com:8080/?q"),
        (
            " http://example.com/a b/ü%20x?ö=1 2 ",
            "http://example.com/a%20b/%C3%BC%20x?%C3%B6=1%202",
        ),
        ("http://example.com/100%", "http://example.com/100%25"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://例え.テスト/", "http://xn--r8jz45g.xn--zckzah/"),
        ("http://１２７.0.0.1/", "http://127.0.0.1/"),
        ("http://[2001:DB8:0::1]:81/", "http://[2001:db8::1]:81/"),
        ("http://a_b.example/", "http://a_b.example/"),
    ],
)
def test_a_url_has_one_form(text: str, form: str) -> None:
    url = WebUrl.parse(text)
    assert str(url) == form
    assert WebUrl.parse(form) == url


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "http:///file",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://@example.com/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com\\/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1.2/",
        "http://127.0.0.256/",
        "http://1.2.3.4.0x/",
        "http://%31%32%37.0.0.1/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1/",
        "http://[127.0.0.1]/",
        "http://[v1.x]/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:port/",
        "http://example.com:-1/",
        "http://exa mple.com/",
        "http://exa\tmple.com/",
        "http://example.com/\r\nHost: a",
        "http://example.com/\x7f",
        "http://-a.example/",
        "http://a..example/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 130 + "example/",
        "http://a\u2024b\u3002\u3002c/",
        "http://\ud800/",
        "http://example.com/" + "a" * MAX_URL,
    ],
)
def test_a_url_is_refused(text: str) -> None:
    with pytest.raises(UrlInvalid) as raised:
        WebUrl.parse(text)
    assert raised.value.message.startswith("An error occurred while parsing that URL: ")
    assert not isinstance(raised.value, UrlSchemeRefused)


@pytest.mark.parametrize(
    "text", ["", "example.com/a", "//example.com", "ftp://a/b", "file:///etc/passwd", "gopher://a"]
)
def test_other_schemes_are_refused(text: str) -> None:
    with pytest.raises(UrlSchemeRefused):
        WebUrl.parse(text)


@pytest.mark.parametrize(
    ("location", "form"),
    [
        ("/b", "https://example.com/b"),
        ("b?c", "https://example.com/dir/b?c"),
        ("../../b", "https://example.com/b"),
        ("//other.example:8443/b", "https://other.example:8443/b"),
        ("http://other.example", "http://other.example/"),
        ("?x", "https://example.com/dir/a?x"),
        ("/ü", "https://example.com/%C3%BC"),
    ],
)
def test_a_redirect_is_relative_to_its_url(location: str, form: str) -> None:
    assert str(WebUrl.parse("https://example.com/dir/a").joined(location)) == form


@pytest.mark.parametrize(
    "location", ["ftp://a/", "javascript:x", "http://a@b/", "//[::1", "/\nb", "\\\\127.0.0.1\\a"]
)
def test_a_redirect_elsewhere_is_refused(location: str) -> None:
    with pytest.raises(UrlInvalid):
        WebUrl.parse("https://example.com/dir/a").joined(location)


@pytest.mark.parametrize(
    ("port", "usual"),
    [(80, True), (443, True), (8080, True), (1024, True), (25, False), (22, False)],
)
def test_ports_of_other_protocols_are_not_usual(port: int, usual: bool) -> None:
    assert WebUrl.parse(f"http://example.com:{port}/").has_usual_port is usual


@given(st.text(max_size=60), st.text(max_size=30))
def test_any_text_is_a_url_of_one_form_or_refused(text: str, location: str) -> None:
    for given_text in (text, f"http://{text}", f"https://{text}/{location}"):
        try:
            url = WebUrl.parse(given_text)
            form = str(url)
            assert form.isascii()
            assert form.isprintable()
            assert " " not in form
            assert WebUrl.parse(form) == url
            url.joined(location)
        except UrlInvalid:
            pass
