//! JSON Schema, as much of it as the server's document uses; a keyword that is not known fails.

use serde_json::Value;
use std::cmp::Ordering;

/// Keywords that say nothing about what is valid.
const SILENT: &[&str] = &["description", "default", "contentMediaType", "contentSchema"];

/// What a reference refers to.
pub fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let Some(at) = schema["$ref"].as_str() else { return schema };
    document.pointer(at.strip_prefix('#').expect("it refers to this document")).unwrap_or_else(|| panic!("no {at}"))
}

/// Whether a value is valid; the path of the first thing that is not.
pub fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let known = resolve(document, schema);
    for (keyword, rule) in known.as_object().unwrap_or_else(|| panic!("{at}: no schema: {known}")) {
        if !SILENT.contains(&keyword.as_str()) && !holds(document, keyword, rule, known, value, at)? {
            return Err(format!("{at}: {keyword} {rule}: {}", value.to_string().chars().take(99).collect::<String>()));
        }
    }
    Ok(())
}

fn holds(doc: &Value, keyword: &str, rule: &Value, schema: &Value, value: &Value, at: &str) -> Result<bool, String> {
    let order = || match (whole(value), whole(rule)) {
        (Some(x), Some(bound)) => Some(x.cmp(&bound)),
        _ => value.as_f64()?.partial_cmp(&rule.as_f64()?),
    };
    let count = rule.as_u64().unwrap_or(0) as usize;
    Ok(match keyword {
        "type" => rule.as_array().map_or_else(|| is(rule, value), |kinds| kinds.iter().any(|kind| is(kind, value))),
        "enum" => rule.as_array().unwrap().contains(value),
        "minimum" => order().is_none_or(Ordering::is_ge),
        "maximum" => order().is_none_or(Ordering::is_le),
        "minLength" => value.as_str().is_none_or(|s| s.chars().count() >= count),
        "maxLength" => value.as_str().is_none_or(|s| s.chars().count() <= count),
        "minItems" => value.as_array().is_none_or(|l| l.len() >= count),
        "maxItems" => value.as_array().is_none_or(|l| l.len() <= count),
        "maxProperties" => value.as_object().is_none_or(|o| o.len() <= count),
        "required" => {
            let names = rule.as_array().unwrap();
            value.as_object().is_none_or(|o| names.iter().all(|name| o.contains_key(name.as_str().unwrap())))
        }
        "anyOf" => rule.as_array().unwrap().iter().any(|one| check(doc, one, value, at).is_ok()),
        "items" => {
            for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                check(doc, rule, item, &format!("{at}[{i}]"))?;
            }
            true
        }
        "properties" => {
            for (name, field) in value.as_object().into_iter().flatten() {
                rule.get(name).map_or(Ok(()), |rule| check(doc, rule, field, &format!("{at}.{name}")))?;
            }
            true
        }
        "additionalProperties" => {
            let more = |name: &str| schema["properties"].get(name).is_none();
            for (name, field) in value.as_object().into_iter().flatten().filter(|(name, _)| more(name)) {
                check(doc, rule, field, &format!("{at}.{name}"))?;
            }
            true
        }
        "propertyNames" => {
            assert_eq!(rule["pattern"], "^[0-9]{1,9}$");
            let digits = |name: &String| (1..=9).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_digit());
            value.as_object().is_none_or(|o| o.keys().all(digits))
        }
        _ => panic!("{at}: {keyword} is not known"),
    })
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => whole(value).is_some(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

/// A number without a fraction, exactly: the greatest bounds are no float64.
fn whole(value: &Value) -> Option<i128> {
    let float = || value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 1e30).map(|x| x as i128);
    value.as_u64().map(i128::from).or(value.as_i64().map(i128::from)).or_else(float)
}
