"""Names may hold anything: a literal must hold exactly that, and nothing may get out of it."""

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseed.export.apps.literals import kotlin_string, one_line, swift_string, typescript_string

NASTY = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ['"', "'", "\\", "\n", "\r", "\u2028", "$", "${x}", "\\(x)", "`", "</script>", "<!--",
             "*/", "//", "\0", "\u202e", "🐦", "}", 'System.exit(1)"']
        ),
        max_size=8,
    ).map("".join),
)  # fmt: skip
PLAIN = re.compile(r'"(?:[ -!#%-\[\]-~]|\\u[0-9a-f]{4})*"')
PLAIN_SWIFT = re.compile(r'"(?:[ -!#%-\[\]-~]|\\u\{[0-9A-F]{1,6}\})*"')


@settings(max_examples=400, deadline=None)
@given(NASTY)
def test_typescript_and_kotlin_literals_hold_their_text(text: str) -> None:
    for literal in (typescript_string(text), kotlin_string(text)):
        assert PLAIN.fullmatch(literal)
        assert not set(literal[1:-1]) & set("\"'`$<>&/*{}\n\r")
        # Their escapes are JSON's.
        assert json.loads(literal) == text


@settings(max_examples=400, deadline=None)
@given(NASTY)
def test_swift_literals_hold_their_text(text: str) -> None:
    literal = swift_string(text)
    assert PLAIN_SWIFT.fullmatch(literal)
    # An interpolation would be a backslash before a bracket.
    assert "\\(" not in literal
    found = re.sub(r"\\u\{([0-9A-F]+)\}", lambda match: chr(int(match[1], 16)), literal[1:-1])
    assert found == re.sub("[\ud800-\udfff]", "\ufffd", text)


@settings(max_examples=200, deadline=None)
@given(NASTY)
def test_prose_holds_nothing_that_markdown_or_html_reads(text: str) -> None:
    assert not set(one_line(text)) & set("<>&`*\n\r$\"'\\/{}")
