//! What an export holds, read without any code of the product: lines of JSON, compressed. For judging whether the rows in
//! a store agree with each other, and for rows as only time could make them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
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
        let mut rows = Self::default();
        for line in lines(path) {
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

/// Writes a copy of an export in which `change` was made to every row, given its kind, and gives the file.
///
/// # Panics
/// When it is no whole export, or the copy cannot be written.
#[must_use]
pub fn changed(path: &Path, mut change: impl FnMut(&str, &mut Value)) -> PathBuf {
    let mut lines: Vec<Value> = lines(path).collect();
    let mut trailer = lines.pop().unwrap();
    let mut text = Vec::new();
    for mut line in lines {
        // The first line has no value.
        if let Some(value) = line["value"].as_str() {
            let mut value: Value = serde_json::from_str(value).unwrap();
            let kind = value["kind"].as_str().unwrap().to_owned();
            change(&kind, &mut value["data"]);
            line["value"] = value.to_string().into();
        }
        writeln!(text, "{line}").unwrap();
    }
    trailer["sha256"] = HEXLOWER.encode(digest(&SHA256, &text).as_ref()).into();
    writeln!(text, "{trailer}").unwrap();
    let copy = path.with_file_name("changed.jsonl.zst");
    fs::write(&copy, zstd::stream::encode_all(text.as_slice(), 0).unwrap()).unwrap();
    copy
}

fn lines(path: &Path) -> impl Iterator<Item = Value> {
    let file = File::open(path).unwrap();
    let lines = BufReader::new(zstd::stream::read::Decoder::new(file).unwrap()).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}
