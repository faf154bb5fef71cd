//! Templates that misbehave, and what they may not do. The rendering of good ones is compared with transformers in
//! `tests/chat_templates.rs`.

use super::super::testing::{bpe, set, spm};
use super::*;
use crate::meta::Value as MetaValue;

fn compile(source: &str) -> Result<ChatTemplate> {
    ChatTemplate::new(source, "<s>", "</s>")
}

fn render(source: &str) -> Result<String> {
    let messages = [Message::new("system", "be brief"), Message::new("user", "hi")];
    compile(source)?.render(&messages, &RenderOptions::default())
}

fn error(source: &str) -> String {
    render(source).expect_err("a template that fails").to_string()
}

#[test]
fn a_template_sees_messages_tokens_and_variables() {
    let source =
        "{{ bos_token }}{% for m in messages %}{{ m.role }}={{ m['content'] }};{% endfor %}{{ eos_token }}{{ flag }}";
    let mut options = RenderOptions { add_generation_prompt: false, ..RenderOptions::default() };
    options.variables.push(("flag".into(), serde_json::json!({"a": [1, 2.5, null, true, "x"]})));
    let text = compile(source).unwrap().render(&[Message::new("user", "hé")], &options).unwrap();
    assert_eq!(text, "<s>user=hé;</s>{'a': [1, 2.5, None, True, 'x']}");
    let names = "{% for m in messages %}{{ m.name if 'name' in m else m.name is defined }},{% endfor %}";
    let named = Message { name: Some("Ann".into()), ..Message::new("user", "hé") };
    assert_eq!(compile(names).unwrap().render(&[named, Message::new("user", "")], &options).unwrap(), "Ann,False,");
    assert_eq!(render("{% if add_generation_prompt %}go{% endif %}{{ tools is none }}").unwrap(), "goTrue");
    assert_eq!(render("{{ '%(b)s %(a)d' | format(a=1, b='x') }} {{ '%s' | format('y') }}").unwrap(), "x 1 y");
}

#[test]
fn a_template_that_refuses_says_why() {
    let e = error("\n\n{{ raise_exception('roles must alternate') }}");
    assert_eq!(e, "the chat template refuses this conversation: roles must alternate");
    let e = error("{% for m in messages %}{{ raise_exception('a' ~ loop.index) }}{% endfor %}");
    assert_eq!(e, "the chat template refuses this conversation: a1");
}

#[test]
fn a_broken_template_is_an_error_with_its_line() {
    for (source, want) in [
        ("a\n{% if %}", "(line 2 of the template)"),
        ("{% for m in messages %}", "fails"),
        ("{{ nothing.at.all }}", "fails: undefined value"),
        ("{{ unknown() }}", "fails"),
        ("{{ 1 | nofilter }}", "nofilter"),
        ("a\n\n{{ ", "line 3: a tag does not end"),
        ("{% include 'x' %}", "fails"),
        ("{{ messages | tojson(indent=100000) }}", "too large"),
        ("{{ 'x' | indent(999999999999) }}", "too large"),
        ("{{ '%999999999999d' | format(1) }}", "too large"),
        ("{{ '%*d' | format(999999999, 1) }}", "fails"),
        ("{{ '{:>99999999999}'.format(1) }}", "too large"),
        ("{{ 'x' * 99999999999 }}", "too large"),
        ("{% set s = 'x' * 1000000 %}{{ s.replace('', s) }}", "too large"),
        ("{% set s = 'x' * 1000000 %}{{ s | replace('x', s) }}", "replace is too large"),
        ("{{ (['x' * 1000000] * 100) | join | length }}", "join is too large"),
        ("{{ [1, 2] | join('x' * 20000000) | length }}", "join is too large"),
        ("{{ [1, 2] | join(d='x' * 20000000) | length }}", "join is too large"),
        ("{{ ('x' * 1000000).join(['a'] * 100) | length }}", "join is too large"),
        ("{{ ('\n' * 100000) | indent(1000) | length }}", "indent is too large"),
        ("{{ ('\n' * 10000000) | indent | length }}", "indent is too large"),
        ("{{ '{0}{0}{0}'.format('x' * 10000000) | length }}", "format is too large"),
        ("{{ '%(a)s%(a)s' | format(a='x' * 10000000) | length }}", "format is too large"),
        ("{{ [[1]] | tojson(indent='x' * 1000000) }}", "indent of tojson is too large"),
        ("{{ [1, 2] | tojson(separators=['x' * 20000000, ':']) | length }}", "too large"),
        ("{{ range(10000000000) }}", "too many"),
        ("{{ namespace | tojson }}", "fails"),
    ] {
        let e = error(source);
        assert!(e.contains("the chat template") && e.contains(want), "{source}: {e}");
    }
}

#[test]
fn endless_and_enormous_templates_end() {
    let endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
    assert!(error(endless).contains("does it loop for ever?"), "{}", error(endless));
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(error(recursive).contains("recursion limit"), "{}", error(recursive));
    let loud = "{% for i in range(9999) %}{{ '%0999d' | format(1) }}{% endfor %}";
    assert!(error(loud).contains("writes more than 4194304 bytes"), "{}", error(loud));
    assert!(error(&"x".repeat(MAX_SOURCE + 1)).contains("the most is 262144"));
}

/// Each of these recurses once per repetition somewhere: in the scanner, the parser, the code generator, a value.
#[test]
fn thousands_of_levels_do_not_overflow_the_stack() {
    let fill = |n: usize, s: &str| s.repeat(n);
    let nested = [
        format!("{{{{ {}1{} }}}}", fill(4000, "("), fill(4000, ")")),
        format!("{{{{ {}1{} }}}}", fill(4000, "["), fill(4000, "]")),
        format!("{{{{ {}1{} }}}}", fill(2000, "{1:"), fill(2000, "}")),
        format!("{{{{ {}1 }}}}", fill(8000, "-")),
        format!("{{{{ {}1 }}}}", fill(2000, "not ")),
        format!("{{{{ 1{} }}}}", fill(4000, "+1")),
        format!("{{{{ 1{} }}}}", fill(4000, "~1")),
        format!("{{{{ bos_token{} }}}}", fill(4000, ".a")),
        format!("{{{{ bos_token{} }}}}", fill(2000, "[0]")),
        format!("{{{{ bos_token{} }}}}", fill(2000, "|e")),
        format!("{{{{ bos_token{} }}}}", fill(2000, "()")),
        format!("{{{{ 1{} }}}}", fill(1000, " if 1 else 1")),
        format!("{{{{ 1{} }}}}", fill(1000, " is odd")),
        format!("{}{}", fill(20_000, "{%if a%}"), ""),
        format!("{}{}", fill(9000, "{%if a%}"), fill(9000, "{%endif%}")),
        format!("{{%if a%}}{}{{%endif%}}", fill(20_000, "{%elif a%}")),
        format!("{}{}", fill(9000, "{%for a in b%}"), fill(9000, "{%endfor%}")),
        fill(80_000, "{{"),
        fill(80_000, "{%"),
        fill(9000, "{%raw%}"),
        format!("{{%raw%}}{}", fill(60_000, "{%\n")),
    ];
    for source in nested {
        let start: String = source.chars().take(20).collect();
        match render(&source) {
            Ok(_) => {}
            Err(Error::Invalid(_) | Error::Limit(_)) => {}
            Err(e) => panic!("{start}…: {e}"),
        }
    }
}

#[test]
fn values_that_nest_as_deep_as_steps_allow_are_written_and_dropped() {
    for show in ["", "{{ ns.x | tojson }}", "{{ ns.x }}", "{{ ns.x == ns.y }}", "{{ ns.x | string | length }}"] {
        let source = format!(
            "{{% set ns = namespace(x=[], y=[]) %}}{{% for i in range(9999) %}}{{% for j in range(99) %}}\
             {{% set ns.x = [ns.x] %}}{{% set ns.y = [ns.y] %}}{{% endfor %}}{{% if i == 1000 %}}{{% break %}}{{% endif %}}\
             {{% endfor %}}{show}"
        );
        assert!(!matches!(render(&source), Err(Error::Engine(_))), "{show}");
    }
}

/// 23 steps to eight million lists: what prints them must stop, not only what keeps them.
#[test]
fn values_that_hold_others_twice_are_not_written_out() {
    let doubling =
        "{% set ns = namespace(x=[1, 2]) %}{% for i in range(23) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    for (show, want) in [
        ("{{ ns.x }}", "writes more than"),
        ("{{ ns.x | string | length }}", "the text of a value is too large"),
        ("{{ ns.x | tojson }}", "too large"),
        ("{{ [ns.x] | join | length }}", "the result of join is too large"),
        ("{{ '%s' | format(ns.x) | length }}", "the result of format is too large"),
        ("{{ raise_exception(ns.x) }}", "the message of raise_exception is too large"),
    ] {
        let e = error(&format!("{doubling}{show}"));
        assert!(e.contains(want), "{show}: {e}");
    }
}

#[test]
fn a_panic_of_the_engine_is_an_error() {
    let template =
        compile("{{ messages[::-1] | length }}{% for m in messages[::-1] %}{{ m.role }}{% endfor %}").unwrap();
    let options = RenderOptions::default();
    assert_eq!(template.render(&[Message::new("user", "")], &options).unwrap(), "1user");
    assert!(matches!(template.render(&[], &options), Err(Error::Engine(_)) | Ok(_)));
}

#[test]
fn a_models_template_comes_with_its_tokens() {
    let mut meta = spm(&["▁"]);
    let tokenizer = Tokenizer::from_meta(&meta).unwrap();
    assert!(ChatTemplate::from_meta(&meta, &tokenizer).unwrap().is_none());
    set(&mut meta, KEY, MetaValue::String(b"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}".to_vec()));
    let template = ChatTemplate::from_meta(&meta, &tokenizer).unwrap().unwrap();
    assert_eq!(template.render(&[Message::new("user", "x")], &RenderOptions::default()).unwrap(), "<s>x</s>");
    set(&mut meta, KEY, MetaValue::String(b"\n{{ x".to_vec()));
    let e = ChatTemplate::from_meta(&meta, &tokenizer).unwrap_err().to_string();
    assert_eq!(e, "vocab.gguf: tokenizer.chat_template at byte 7: the chat template, line 2: a tag does not end");
    let mut meta = bpe(&[], &[]);
    let tokenizer = Tokenizer::from_meta(&meta).unwrap();
    set(&mut meta, KEY, MetaValue::String(b"[{{ bos_token }}]".to_vec()));
    let template = ChatTemplate::from_meta(&meta, &tokenizer).unwrap().unwrap();
    assert_eq!(template.render(&[], &RenderOptions::default()).unwrap(), "[]");
    assert_eq!(template.source(), "[{{ bos_token }}]");
}
