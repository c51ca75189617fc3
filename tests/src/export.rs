//! What an export holds, read without any code of the product: lines of JSON, compressed. For judging whether the rows in
//! a store agree with each other.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde_json::Value;

/// The rows of an export, by kind, then by key.
#[derive(Debug, Clone, Default)]
pub struct Rows(BTreeMap<String, BTreeMap<String, Value>>);

impl Rows {
    /// Reads an export.
    ///
    /// # Panics
    /// When it is no whole export.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let file = std::fs::File::open(path).unwrap();
        let mut rows = Self::default();
        for line in BufReader::new(zstd::stream::read::Decoder::new(file).unwrap()).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            // The first and the last line have no key.
            let Some(key) = line["key"].as_str() else { continue };
            let value: Value = serde_json::from_str(line["value"].as_str().unwrap()).unwrap();
            let kind = value["kind"].as_str().unwrap().to_owned();
            rows.0.entry(kind).or_default().insert(key.to_owned(), value["data"].clone());
        }
        assert!(!rows.0.is_empty(), "{} is empty", path.display());
        rows
    }

    /// The rows of a kind.
    pub fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.get(kind).into_iter().flat_map(BTreeMap::values)
    }

    /// The kinds that there are, with how many of each.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<&str, usize> {
        self.0.iter().map(|(kind, rows)| (kind.as_str(), rows.len())).collect()
    }
}
