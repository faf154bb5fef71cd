//! A look at a template's tags before the template engine parses it.
//!
//! Two things are done that the engine does not do: the tags `{% generation %}` and `{% endgeneration %}`, by which
//! training code marks the assistant's text, become an `if true` block; and a tag of absurd length is refused, because
//! the engine recurses once for each operator of an expression. Strings within tags, comments and raw blocks are
//! stepped over.

/// Longest tag in bytes, not counting its strings.
const MAX_TAG: usize = 8 << 10;

/// The template with its generation tags replaced.
///
/// # Errors
/// In words: a tag that is too long, or one that does not end.
pub(super) fn without_generation_tags(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let line = || 1 + source[..source.len() - tag.len()].matches('\n').count();
        let len = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map(|at| at + 2),
            Some(b'{') => tag_len(tag, "}}").map_err(|e| format!("the chat template, line {}: {e}", line()))?,
            Some(b'%') => tag_len(tag, "%}").map_err(|e| format!("the chat template, line {}: {e}", line()))?,
            _ => Some(1),
        };
        let len = len.ok_or_else(|| format!("the chat template, line {}: a tag does not end", line()))?;
        let (tag, after) = tag.split_at(len);
        rest = after;
        match word(tag) {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            "raw" => {
                let end = raw_len(rest).unwrap_or(rest.len());
                out.push_str(tag);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The only word of a block tag, or nothing.
fn word(tag: &str) -> &str {
    let inner = tag.strip_prefix("{%").and_then(|t| t.strip_suffix("%}")).unwrap_or_default();
    inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim()
}

/// Bytes up to the end of the tag that `text` starts with; `None` if there is no end.
fn tag_len(text: &str, end: &str) -> Result<Option<usize>, String> {
    let bytes = text.as_bytes();
    let (mut at, mut outside) = (2, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(end.as_bytes()) {
            return Ok(Some(at + 2));
        }
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            _ => outside += 1,
        }
        if outside > MAX_TAG {
            return Err(format!("a tag has more than {MAX_TAG} bytes"));
        }
        at += 1;
    }
    Ok(None)
}

/// Bytes before the `{% endraw %}` tag. The ends of other tags are not looked for: they may be far away, or missing.
fn raw_len(text: &str) -> Option<usize> {
    text.match_indices("{%").map(|(at, _)| at).find(|&at| {
        let word = text[at + 2..].trim_start_matches(['-', '+']).trim_start();
        let end = word.strip_prefix("endraw").map(|rest| rest.trim_start().trim_start_matches(['-', '+']));
        end.is_some_and(|rest| rest.starts_with("%}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(source: &str) -> String {
        without_generation_tags(source).unwrap()
    }

    #[test]
    fn generation_tags_become_blocks_and_keep_their_trimming() {
        assert_eq!(scan("a{%- generation -%}b{% endgeneration %}"), "a{%- if true -%}b{% endif %}");
        for same in [
            "{{ '{% generation %}' }} {# {% generation %} #}",
            "{% raw %}{% generation %}{{{% endraw %}",
            "{ { % } {{ \"\\\"}}\" }} {% generation_x %}",
            "é{{ 'é' }}{",
            "",
        ] {
            assert_eq!(scan(same), same);
        }
    }

    #[test]
    fn tags_without_end_or_measure_are_refused() {
        for open in ["a\n{{ x", "a\n{% if", "a\n{# x", "a\n{{ '}} ", "a\n{{ '\\"] {
            assert_eq!(without_generation_tags(open).unwrap_err(), "the chat template, line 2: a tag does not end");
        }
        let long = format!("{{{{ {}1 }}}}", "-".repeat(10_000));
        assert!(without_generation_tags(&long).unwrap_err().contains("line 1: a tag has more than 8192 bytes"));
        let text = format!("{{{{ '{}' }}}}", "-".repeat(10_000));
        assert_eq!(scan(&text), text, "the strings of a tag do not count");
    }
}
