//! Sparse fields: `?fields=id,name,observed.state` on a list. Which fields a row may have is read from the OpenAPI document, so
//! that a misspelt one is refused instead of missing. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::problem::{ApiError, Kind, shown};

/// Fields of one request; a view has about thirty.
const FIELDS_MAX: usize = 64;
/// How deep views are described; the deepest (a guest's file systems) has four levels.
const DEPTH_MAX: usize = 6;

/// Fields by name, with the fields within them. Nothing within: a value, or whatever it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(BTreeMap<String, Fields>);

/// The fields of each list's rows, by the list's path.
#[derive(Debug, Default)]
pub(super) struct Shapes(BTreeMap<String, Fields>);

impl Shapes {
    /// Of every list in a document.
    pub(super) fn of(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let shape = |(path, item): (&String, &Value)| {
            let answer = &item["get"]["responses"]["200"]["content"]["application/json"]["schema"];
            let row = &resolved(document, answer)["properties"]["items"]["items"];
            (!row.is_null()).then(|| (path.clone(), described(document, row, 0)))
        };
        Self(paths.filter_map(shape).collect())
    }

    /// The fields that `?fields=` names, of the rows of the list at `path`.
    ///
    /// # Errors
    /// When the rows have no such field.
    pub(super) fn read(&self, path: &str, text: &str) -> Result<Fields, ApiError> {
        let refused = |detail: String| ApiError::new(Kind::Malformed, detail).at("fields");
        let nothing = Fields::default();
        let known = self.0.get(path).unwrap_or(&nothing);
        let mut wanted = Fields::default();
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        if names.len() > FIELDS_MAX {
            return Err(refused(format!("{} fields are named; name at most {FIELDS_MAX}", names.len())));
        }
        for name in names {
            let (mut place, mut known) = (&mut wanted, known);
            for (depth, part) in name.split('.').enumerate() {
                // Within what is described as a map, any name may be one of its keys.
                if depth == 0 || !known.0.is_empty() {
                    known = known.0.get(part).ok_or_else(|| {
                        let names =
                            known.0.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                        refused(format!("rows have no field `{}`; there are {names}", shown(name)))
                    })?;
                }
                place = place.0.entry(part.to_owned()).or_default();
                if depth >= DEPTH_MAX {
                    return Err(refused(format!("rows have no field `{}`", shown(name))));
                }
            }
        }
        Ok(wanted)
    }
}

impl Fields {
    /// What of a row was asked for. Lists within it are cut entry by entry.
    pub(super) fn pick(&self, row: Value) -> Value {
        if self.0.is_empty() {
            return row;
        }
        match row {
            Value::Object(all) => {
                let wanted = |(name, value): (String, Value)| {
                    let within = self.0.get(&name)?;
                    Some((name, within.pick(value)))
                };
                Value::Object(all.into_iter().filter_map(wanted).collect())
            }
            Value::Array(all) => all.into_iter().map(|entry| self.pick(entry)).collect(),
            other => other,
        }
    }
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
    reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema)
}

fn described(document: &Value, schema: &Value, depth: usize) -> Fields {
    let mut fields = Fields::default();
    if depth >= DEPTH_MAX {
        return fields;
    }
    let schema = resolved(document, schema);
    for (name, of_field) in schema["properties"].as_object().into_iter().flatten() {
        fields.0.insert(name.clone(), described(document, of_field, depth + 1));
    }
    // What may be null, or one of several, is described by its parts.
    let parts =
        ["allOf", "anyOf", "oneOf"].iter().flat_map(|word| schema[*word].as_array().into_iter().flatten());
    for part in parts.chain([&schema["items"]].into_iter().filter(|items| items.is_object())) {
        fields.0.extend(described(document, part, depth + 1).0);
    }
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shapes() -> Shapes {
        Shapes::of(&json!({
            "paths": {"/api/x": {"get": {"responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/c/Page"}}}}}}}},
            "c": {
                "Page": {"properties": {"items": {"type": "array", "items": {"$ref": "#/c/Row"}}}},
                "Row": {"properties": {
                    "id": {}, "labels": {"additionalProperties": {}},
                    "seen": {"oneOf": [{"type": "null"}, {"$ref": "#/c/Seen"}]},
                    "steps": {"type": "array", "items": {"$ref": "#/c/Seen"}},
                }},
                "Seen": {"properties": {"at": {}, "by": {}}},
            },
        }))
    }

    fn picked(fields: &str) -> Value {
        let row = json!({"id": 1, "labels": {"a": 2, "b": 3}, "seen": {"at": 4, "by": 5}, "steps": [{"at": 6, "by": 7}, {"at": 8}]});
        shapes().read("/api/x", fields).unwrap().pick(row)
    }

    #[test]
    fn rows_have_the_fields_that_were_asked_for_and_no_other() {
        assert_eq!(picked("id"), json!({"id": 1}));
        assert_eq!(picked("id, seen.at"), json!({"id": 1, "seen": {"at": 4}}));
        assert_eq!(picked("seen"), json!({"seen": {"at": 4, "by": 5}}));
        assert_eq!(picked("steps.by"), json!({"steps": [{"by": 7}, {}]}));
        assert_eq!(picked("labels.b"), json!({"labels": {"b": 3}}));
    }

    #[test]
    fn a_field_that_rows_do_not_have_is_refused_with_those_that_they_have() {
        for bad in ["", "ids", "id,", "seen.when", "seen..at"] {
            let error = shapes().read("/api/x", bad).unwrap_err().into_problem();
            assert_eq!((error.status, error.location.as_deref()), (400, Some("fields")), "{bad}");
        }
        let error = shapes().read("/api/x", "nam").unwrap_err().into_problem();
        assert!(error.detail.contains("`nam`") && error.detail.contains("`labels`"), "{}", error.detail);
        assert!(shapes().read("/api/x", &vec!["id"; 65].join(",")).is_err());
    }
}
