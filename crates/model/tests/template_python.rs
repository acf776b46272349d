//! Methods, filters and functions of Python and its Jinja, with what they give there.

use leveret_model::template::ChatTemplate;
use serde_json::{Map, Value, json};

fn render(template: &str) -> Result<String, String> {
    let Value::Object(variables) = json!({
        "s": "hello World foo", "u": "Über ß naïve", "n": 7, "l": [3, 1, 2], "d": {"b": 2, "a": 1},
        "html": "<a href='x'>&\"", "lines": "a\nb\n\nc", "none": null, "deep": {"x": [1, {"é": 1.0}]},
    }) else {
        return Ok(String::new());
    };
    let template = ChatTemplate::new(template, None, None).map_err(|error| error.to_string())?;
    template.render(&json!([]), None, false, &Map::from_iter(variables)).map_err(|error| error.to_string())
}

/// Expressions and what Python's Jinja prints for them, set up as transformers does.
const EXPRESSIONS: &[(&str, &str)] = &[
    // Methods of strings.
    ("'a b c'.split(maxsplit=1)", "['a', 'b c']"),
    ("'a b c'.rsplit(maxsplit=1)", "['a b', 'c']"),
    ("'  a b '.split(none, 1)", "['a', 'b ']"),
    ("'  a b '.rsplit(none, 1)", "['  a', 'b']"),
    ("' a  b\\n'.split()", "['a', 'b']"),
    ("' a  b\\n'.rsplit()", "['a', 'b']"),
    ("''.split()", "[]"),
    ("''.split(',')", "['']"),
    ("'a-b-c'.split(sep='-')", "['a', 'b', 'c']"),
    ("'a-b-c'.split('-', 1)", "['a', 'b-c']"),
    ("'a-b-c'.rsplit('-', 1)", "['a-b', 'c']"),
    ("'a-b'.split('-', 0)", "['a-b']"),
    ("s.find('o')", "4"),
    ("s.find('o', 5)", "7"),
    ("s.find('o', 8, 10)", "-1"),
    ("s.find('o', -2)", "13"),
    ("s.rfind('o')", "14"),
    ("s.rfind('o', 0, -4)", "7"),
    ("u.find('n')", "7"),
    ("u.index('ß', 2)", "5"),
    ("s.rindex('l')", "9"),
    ("s.partition(' ')[2]", "World foo"),
    ("s.rpartition(' ')[0]", "hello World"),
    ("s.rpartition('x')[2]", "hello World foo"),
    ("'a'.center(4, '*')", "*a**"),
    ("'ab'.center(5, '*')", "**ab*"),
    ("'a'.ljust(3, '.') ~ 'a'.rjust(3)", "a..  a"),
    ("u.rjust(14, 'ß')", "ßßÜber ß naïve"),
    ("'abc'.center(2)", "abc"),
    ("'1'.zfill(3) ~ '-1'.zfill(4) ~ '+x'.zfill(1)", "001-001+x"),
    ("s.swapcase()", "HELLO wORLD FOO"),
    ("u.casefold()", "über ss naïve"),
    ("'they\\'re hello_world fOO-bar'.title()", "They'Re Hello_World Foo-Bar"),
    ("s.removeprefix('hello ').removesuffix(' foo')", "World"),
    // Of lists and dictionaries.
    ("l.index(2)", "2"),
    ("l.copy() + [4]", "[3, 1, 2, 4]"),
    ("d.copy()", "{'b': 2, 'a': 1}"),
    // Filters.
    ("'ab'|center(5) ~ '|'", "  ab |"),
    ("s|center|length", "80"),
    ("'they\\'re hello_world fOO-bar'|title", "They're Hello_world Foo-Bar"),
    ("''|default('x', boolean=true)", "x"),
    ("''|d('x', true)", "x"),
    ("none|default('x')", "None"),
    ("nothing|default(default_value='x')", "x"),
    ("nothing|default ~ '|'", "|"),
    ("'x'|int", "0"),
    ("''|int ~ ' ' ~ ' 4 '|int ~ ' ' ~ '3.7'|int", "0 4 3"),
    ("'x'|int(5)", "5"),
    ("'0x1A'|int(base=16) ~ ' ' ~ 'x'|int(default=3)", "26 3"),
    ("'x'|float", "0.0"),
    ("' 4 '|float ~ ' ' ~ 'x'|float(1.5)", "4.0 1.5"),
    ("lines|indent", "a\n    b\n\n    c"),
    ("lines|indent(2, true)", "  a\n  b\n\n  c"),
    ("lines|indent(width=1, blank=true)", "a\n b\n \n c"),
    ("lines|indent('> ')", "a\n> b\n\n> c"),
    ("' a \\n'|indent(2, true)", "   a \n"),
    ("''|indent(2, true)", "  "),
    ("html|e", "&lt;a href=&#39;x&#39;&gt;&amp;&#34;"),
    ("html|escape|e", "&lt;a href=&#39;x&#39;&gt;&amp;&#34;"),
    ("d|tojson(false, 1)", "{\n \"b\": 2,\n \"a\": 1\n}"),
    ("u|tojson(true)", "\"\\u00dcber \\u00df na\\u00efve\""),
    ("deep|tojson(ensure_ascii=true, separators=(',', ':'))", "{\"x\":[1,{\"\\u00e9\":1.0}]}"),
];

#[test]
fn expressions() {
    for (expression, wanted) in EXPRESSIONS {
        assert_eq!(render(&format!("{{{{ {expression} }}}}")).as_deref(), Ok(*wanted), "{expression}");
    }
}

#[test]
fn objects_with_a_state() {
    let cycle = "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}";
    assert_eq!(render(cycle).as_deref(), Ok("aba"));
    let join = "{% set comma = joiner() %}{% for x in l %}{{ comma() }}{{ x }}{% endfor %}";
    assert_eq!(render(join).as_deref(), Ok("3, 1, 2"));
}

/// What Python refuses is refused, and so is text beyond all measure before it is made.
#[test]
fn refusals() {
    for expression in [
        "'abc'.split('')",
        "'abc'.index('x')",
        "'abc'.rindex('x')",
        "'abc'.center(9, 'xy')",
        "l.index(9)",
        "'a'.split(nope=1)",
        "'a'|default('x', nope=1)",
    ] {
        let refused = render(&format!("{{{{ {expression} }}}}"));
        assert!(refused.is_err(), "{expression}: {refused:?}");
    }
    for expression in [
        "'a'.center(10 ** 15)",
        "'a'.zfill(10 ** 15)",
        "'a'|center(10 ** 15)",
        "'a\\nb'|indent(10 ** 15)",
        "('\\n' * 100000)|indent(100000, blank=true)",
    ] {
        let refused = render(&format!("{{{{ {expression} }}}}")).unwrap_err();
        assert!(refused.contains("too much work"), "{expression}: {refused}");
    }
}
