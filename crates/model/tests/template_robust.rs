//! Chat templates: idioms of published ones, and hostile ones.

use leveret_model::template::ChatTemplate;
use serde_json::{Map, Value, json};

fn render(source: &str) -> Result<String, String> {
    let messages = json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U 'q' \"d\" <é>"},
        {"role": "assistant", "content": "<think>\nT\n</think>\n\nA"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "f", "x": 1.0, "y": 1e16}}]);
    let mut extra = Map::new();
    extra.insert("enable_thinking".into(), Value::Bool(false));
    ChatTemplate::new(source, Some("<s>"), None)
        .and_then(|template| template.render(&messages, Some(&tools), true, &extra))
        .map_err(|error| error.to_string())
}

fn check(cases: &[(&str, &str)]) {
    for (source, wanted) in cases {
        assert_eq!(render(source).as_deref(), Ok(*wanted), "{source}");
    }
}

#[test]
fn idioms() {
    check(&[
        (
            "{% set c = messages[2].content %}{{ c.split('</think>')[-1].lstrip('\\n') }}|\
             {{ c.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}",
            "A|T",
        ),
        ("{%- for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}", "aus"),
        (
            "{%- set ns = namespace(last=messages|length - 1) %}{% for m in messages %}\
             {% if loop.index0 == ns.last %}{{ loop.previtem.role }}{% endif %}{% endfor %}",
            "user",
        ),
        ("{{ bos_token }}{{ eos_token }}{{ nothing }}", "<s>"),
        (
            "{{ tools[0] | tojson }}",
            r#"{"type": "function", "function": {"name": "f", "x": 1.0, "y": 1e+16}}"#,
        ),
        (
            "{{ tools[0].function | tojson(indent=4) }}",
            "{\n    \"name\": \"f\",\n    \"x\": 1.0,\n    \"y\": 1e+16\n}",
        ),
        ("{{ {'b': [], 'a': {}} | tojson(indent=1, sort_keys=true) }}", "{\n \"a\": {},\n \"b\": []\n}"),
        ("{{ [1, 'a'] | tojson(separators=(',', ':')) }}", "[1,\"a\"]"),
        ("{{ messages[1].content | tojson }}", r#""U 'q' \"d\" <é>""#),
        (
            "{{ {'a': 'x', 'b': [true, none, 1.5, \"it's\"]} }}",
            "{'a': 'x', 'b': [True, None, 1.5, \"it's\"]}",
        ),
        ("{{ 'a' ~ true ~ none ~ 1 }}", "aTrueNone1"),
        ("{{ 1e20 }} {{ 1e-7 }} {{ [2.0, 1e20] }} {{ 6 / 2 }} {{ 3 }}", "1e+20 1e-07 [2.0, 1e+20] 3.0 3"),
        ("{{ 'é🙂' | tojson(ensure_ascii=true) }}", r#""\u00e9\ud83d\ude42""#),
        (
            "{{ 'one two three' | truncate(8, leeway=0) }}|{{ 'one two' | truncate(3, true, '', leeway=0) }}",
            "one...|one",
        ),
        ("{{ 'one two' | truncate(3) }}|{{ 'one, two_2' | wordcount }}", "one two|2"),
        ("{{ 'a b c'.rsplit(' ', 1) }}{{ 'äb'.index('b') }}", "['a b', 'c']1"),
        ("{{ true | string + '!' }}", "True!"),
        ("{{ 'x' if enable_thinking is defined and enable_thinking is false }}", "x"),
        ("{{ 'ab' is sequence }}{{ {} is iterable }}{{ 1 is iterable }}", "TrueTrueFalse"),
        ("{{ messages[0].content is string and messages[0].content is not mapping }}", "True"),
        ("{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'a:b:c'.partition(':') | list }}", "x['a', ':', 'b:c']"),
        ("{{ 'a:b:c'.rpartition(':')[0] }}{{ 'abc'.partition(':')[0] }}", "a:babc"),
        ("{% for k, v in tools[0].function.items() %}{{ k }}{% endfor %}", "namexy"),
        ("{{ tools[0].function.get('name') }}{{ tools[0].get('no', 'd') }}", "fd"),
        ("{% generation %}a{% endgeneration %}b", "ab"),
        ("{%- macro m(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ m('1') }}{{ m('2', b='3') }}", "1x23"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% if tools is not none and tools | length > 0 %}t{% endif %}", "t"),
        ("{{ messages | map(attribute='role') | list }}", "['system', 'user', 'assistant']"),
        ("{{ '{:>4}'.format(7) }}{{ '%s-%d' | format('a', 2) }}", "   7a-2"),
        (
            "{% set x = namespace(a=[]) %}{% for m in messages %}{% set x.a = x.a + [m.role] %}{% endfor %}{{ x.a | length }}",
            "3",
        ),
        ("{{ (messages | selectattr('role', 'equalto', 'user') | first).content[:1] }}", "U"),
        ("{%- if not ('system' == messages[0]['role']) -%}n{%- else -%}y{%- endif -%}", "y"),
        ("{{ raise_exception if false else 'ok' }}", "ok"),
        ("{{ messages[0]['content'] | trim | upper | replace('S', 'z') }}", "z"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
    ]);
}

#[test]
fn faults_are_one_line_and_say_where() {
    for (source, wanted) in [
        ("a\n{{ raise_exception('roles must alternate') }}", "line 2: roles must alternate"),
        ("{{ raise_exception('two\nlines') }}", r"line 1: two\nlines"),
        ("{% if %}", "line 1"),
        ("{{ nothing.more }}", "line 1"),
        ("{{ 'a' | no_such_filter }}", "no_such_filter"),
        ("{% include 'other' %}", "other"),
        ("{% for %}{% endfor", "line 1"),
        ("{{ messages | tojson(indent=-1) }}", "line 1"),
        ("{{ tojson }}{{ '' | tojson(default=1) }}", "default"),
    ] {
        let error = render(source).unwrap_err();
        assert!(error.contains(wanted) && !error.contains('\n'), "{source}: {error}");
    }
}

/// Each would take for ever, or all memory, or the whole stack.
#[test]
fn hostile_templates_are_stopped() {
    let deep = "(".repeat(60_000);
    let blocks = "{% if true %}".repeat(20_000);
    let ands = format!("{{{{ {} 1 }}}}", "1 and ".repeat(40_000));
    let tests = format!("{{{{ 1{} }}}}", " is true".repeat(30_000));
    let minus = format!("{{{{ {} 1 }}}}", "not ".repeat(65_000));
    let adds = format!("{{{{ 1{} }}}}", " + 1".repeat(65_000));
    let lists = format!("{{{{ {}{} }}}}", "[".repeat(60_000), "]".repeat(60_000));
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}\
        {% for j in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
    let nested_some = "{% set ns = namespace(x=[]) %}{% for i in range(90) %}\
        {% for j in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'a' * 99999999 }}",
        "{{ [0] * 99999999 }}",
        "{{ ([0] * 99999999) | tojson }}",
        "{{ (['a' * 9999] * 99999999) | string }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{{ range(99999) | list | tojson(indent='x' * 99999) }}",
        "{{ range(99999) | list | tojson(separators=['x' * 99999, ':']) }}",
        "{{ 'a' | indent(99999999) }}",
        "{{ '%99999999d' | format(1) }}",
        "{{ '{:99999999}'.format(1) }}",
        "{{ range(99999999) | list }}",
        "{{ 'a'.replace('', 'b' * 1000000) * 1000 }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        nested,
        &format!("{nested_some}{{{{ ns.x }}}}"),
        &format!("{nested_some}{{{{ ns.x | tojson }}}}"),
        &format!("{nested_some}{{{{ ns.x == [ns.x] }}}}"),
        &deep,
        &blocks,
        &minus,
        &ands,
        &tests,
        &adds,
        &lists,
    ] {
        let start = std::time::Instant::now();
        // Whether it fails or is cheap after all does not matter, as long as it returns.
        let result = render(source);
        let shown: String = source.chars().take(60).collect();
        eprintln!("{:?} {} for {shown}", start.elapsed(), result.is_ok());
        assert!(start.elapsed().as_secs() < 20, "{shown}");
        assert!(result.map_or(0, |text| text.len()) < 64 << 20, "{shown}");
    }
}
