//! Shapes as JSON Schema (draft 2020-12, which OpenAPI 3.1 takes).
//!
//! An object goes to the document's components under its name, and is referred to. What may be left out may be `null`,
//! and so may a field that nobody knows.

use super::shape::{Field, List, NAME_DIGITS, Names, Need, Object, Shape};
use crate::sample::Params;
use serde_json::{Map, Value, json};

/// The named schemas of a document.
#[derive(Debug)]
pub struct Schemas<'a> {
    /// By name.
    pub named: Map<String, Value>,
    /// What holds where a body says nothing about sampling.
    sampling: &'a Params,
}

impl<'a> Schemas<'a> {
    /// None yet.
    pub fn new(sampling: &'a Params) -> Self {
        Schemas { named: Map::new(), sampling }
    }

    /// A reference to an object, which is among the named ones from here on.
    pub fn object(&mut self, object: &Object) -> Value {
        if !self.named.contains_key(object.name) {
            // Before its parts, whose order is that of the fields.
            self.named.insert(object.name.into(), Value::Null);
            let properties: Map<String, Value> = object.all().map(|f| (f.name.into(), self.field(f))).collect();
            let required = object.all().filter(|f| matches!(f.need, Need::Must));
            let required: Vec<&str> = required.map(|f| f.name).collect();
            let schema = json!({
                "type": "object",
                "description": sentence(object.about),
                "properties": properties,
                "required": required,
                "additionalProperties": { "type": "null" },
            });
            self.named.insert(object.name.into(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{}", object.name) })
    }

    fn field(&mut self, field: &Field) -> Value {
        let schema = self.shape(&field.shape);
        let mut schema = if matches!(field.need, Need::Must) { schema } else { or_null(schema) };
        schema["description"] = sentence(field.about).into();
        let default = match field.need {
            Need::Or(text) => serde_json::from_str(text).ok(),
            // As it is written, and not as the nearest float64 of the float32.
            Need::Setting(of) => serde_json::from_str(&of(&mut self.sampling.clone()).to_string()).ok(),
            Need::Must | Need::May | Need::Passed => None,
        };
        if let Some(default) = default {
            schema["default"] = default;
        }
        schema
    }

    /// The schema of a shape.
    pub fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::Any => json!({}),
            Shape::Text => json!({ "type": "string" }),
            // A character has up to four bytes.
            Shape::Bytes(least, most) => {
                json!({ "type": "string", "minLength": least.div_ceil(4), "maxLength": most })
            }
            Shape::Word(words) => json!({ "type": "string", "enum": words }),
            Shape::Flag => json!({ "type": "boolean" }),
            Shape::Number(range) => {
                let mut schema = json!({ "type": "number" });
                for (name, bound) in [("minimum", range.low), ("maximum", range.high)] {
                    if bound.is_finite() {
                        schema[name] = bound.into();
                    }
                }
                schema
            }
            Shape::Whole(least, most) => json!({ "type": "integer", "minimum": int(*least), "maximum": int(*most) }),
            Shape::List(list) => self.list(list),
            Shape::Names(names) => self.names(names),
            Shape::Either(shapes) => json!({ "anyOf": shapes.iter().map(|s| self.shape(s)).collect::<Vec<_>>() }),
            Shape::OrNull(shape) => or_null(self.shape(shape)),
            Shape::Object(object) => self.object(object),
            Shape::Only([]) => json!({ "type": "null" }),
            Shape::Only(allowed) => {
                json!({ "enum": allowed.iter().filter_map(|a| serde_json::from_str(a).ok()).collect::<Vec<Value>>() })
            }
        }
    }

    fn list(&mut self, list: &List) -> Value {
        let mut schema = json!({ "type": "array", "items": self.shape(&list.of) });
        if list.least > 0 {
            schema["minItems"] = list.least.into();
        }
        if list.most < usize::MAX {
            schema["maxItems"] = list.most.into();
        }
        schema
    }

    fn names(&mut self, names: &Names) -> Value {
        let mut schema = json!({ "type": "object", "additionalProperties": self.shape(&names.value) });
        if names.numbers {
            schema["propertyNames"] = json!({ "pattern": format!("^[0-9]{{1,{NAME_DIGITS}}}$") });
        }
        if names.most < usize::MAX {
            schema["maxProperties"] = names.most.into();
        }
        schema
    }
}

/// As JSON has it, which knows whole numbers of 64 bits.
fn int(n: i128) -> Value {
    u64::try_from(n).map(Value::from).unwrap_or_else(|_| Value::from(n.max(i64::MIN.into()) as i64))
}

fn or_null(mut schema: Value) -> Value {
    let nothing = json!({ "type": "null" });
    if let Some(shapes) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        shapes.push(nothing);
    } else if schema.get("$ref").is_some() {
        return json!({ "anyOf": [schema, nothing] });
    } else {
        if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut)
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
        if let Some(kind) = schema.get("type").filter(|kind| *kind != "null").cloned() {
            schema["type"] = json!([kind, "null"]);
        }
    }
    schema
}

/// Words that may go on, as a sentence.
fn sentence(words: &str) -> String {
    let mut rest = words.chars();
    let first = rest.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", rest.as_str())
}
