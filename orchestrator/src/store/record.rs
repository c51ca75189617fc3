//! How a row becomes a stored value and back: JSON in an envelope that names its kind and schema version, so that every
//! later release can read what an earlier one wrote. Pure; knows no row but [`Meta`].
//!
//! Rows of an older schema are upgraded when read; whoever loads them writes them back (see [`Decoded::outdated`]).

use std::sync::Arc;

use chom_protocol::UnixMillis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commit::Record;
use super::key::{EVERYTHING, Key, Part};

/// What can be stored. The stored form of a released row never changes without a new schema number and an upgrade.
pub trait Row: Serialize + DeserializeOwned {
    /// What the row is called in its envelope; never reused for something else.
    const KIND: &'static str;
    /// The version of its form; begins at 1, rises with every change that older code or data would not survive.
    const SCHEMA: u32;

    /// Brings data of an older schema to the newest one.
    ///
    /// # Errors
    /// When there is no way from that schema, or the data are not what it promises; says which.
    fn upgrade(from_schema: u32, data: Value) -> Result<Value, String> {
        let _ = data;
        Err(format!("this release knows no way from schema {from_schema}"))
    }
}

/// A row as it came out of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<T> {
    /// The row.
    pub row: T,
    /// It was stored in an older schema: write it back.
    pub outdated: bool,
}

/// Why a value is not the row it should be.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The row cannot be written as JSON.
    #[error("a row of kind `{kind}` cannot be written as JSON")]
    Encode {
        /// Its kind.
        kind: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// No JSON, or no envelope around it.
    #[error("the stored row `{key}` has no readable envelope (expected JSON with kind, schema and data)")]
    Envelope {
        /// Its key.
        key: Key,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another kind of row stands there.
    #[error("the stored row `{key}` is of kind `{found}`, expected `{expected}`")]
    Kind {
        /// Its key.
        key: Key,
        /// The kind it should have.
        expected: &'static str,
        /// The kind it has.
        found: String,
    },
    /// The row is newer than this program.
    #[error(
        "the stored row `{key}` (kind `{kind}`) has schema {found}, this release knows up to {known}: it was written by a \
         newer release; install that one, or restore an export made before the upgrade"
    )]
    Newer {
        /// Its key.
        key: Key,
        /// Its kind.
        kind: &'static str,
        /// Its schema.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The row is older than this program can read.
    #[error(
        "the stored row `{key}` (kind `{kind}`, schema {found}) cannot be upgraded to schema {known}: {reason}"
    )]
    Upgrade {
        /// Its key.
        key: Key,
        /// Its kind.
        kind: &'static str,
        /// Its schema.
        found: u32,
        /// The schema it should get.
        known: u32,
        /// What the upgrade said.
        reason: String,
    },
    /// The data are not a row of that schema.
    #[error("the stored row `{key}` (kind `{kind}`, schema {schema}) does not decode")]
    Data {
        /// Its key.
        key: Key,
        /// Its kind.
        kind: &'static str,
        /// Its schema.
        schema: u32,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Serialize)]
struct Enveloped<'row, T> {
    kind: &'static str,
    schema: u32,
    data: &'row T,
}

#[derive(Deserialize)]
struct Head {
    kind: String,
    schema: u32,
}

#[derive(Deserialize)]
struct Body<T> {
    data: T,
}

/// The value to store for a row.
///
/// # Errors
/// When the row cannot be JSON (a map whose keys are no texts, for one).
pub fn encode<T: Row>(row: &T) -> Result<Arc<str>, RecordError> {
    serde_json::to_string(&Enveloped { kind: T::KIND, schema: T::SCHEMA, data: row })
        .map(Arc::from)
        .map_err(|source| RecordError::Encode { kind: T::KIND, source })
}

/// The row in a stored record.
///
/// # Errors
/// When it is another kind of row, damaged, written by a newer release, or too old.
pub fn decode<T: Row>(record: &Record) -> Result<Decoded<T>, RecordError> {
    decode_value(&record.key, &record.value)
}

/// The row in a stored value; the key is only for messages.
///
/// # Errors
/// As [`decode`].
pub fn decode_value<T: Row>(key: &Key, value: &str) -> Result<Decoded<T>, RecordError> {
    let envelope = |source| RecordError::Envelope { key: key.clone(), source };
    let head: Head = serde_json::from_str(value).map_err(envelope)?;
    if head.kind != T::KIND {
        return Err(RecordError::Kind { key: key.clone(), expected: T::KIND, found: head.kind });
    }
    let (kind, found, known) = (T::KIND, head.schema, T::SCHEMA);
    let undecodable = |source| RecordError::Data { key: key.clone(), kind, schema: found, source };
    if found == known {
        let body: Body<T> = serde_json::from_str(value).map_err(undecodable)?;
        return Ok(Decoded { row: body.data, outdated: false });
    }
    if found > known {
        return Err(RecordError::Newer { key: key.clone(), kind, found, known });
    }
    let body: Body<Value> = serde_json::from_str(value).map_err(envelope)?;
    let data = T::upgrade(found, body.data).map_err(|reason| RecordError::Upgrade {
        key: key.clone(),
        kind,
        found,
        known,
        reason,
    })?;
    let row = serde_json::from_value(data).map_err(undecodable)?;
    Ok(Decoded { row, outdated: true })
}

/// What the store is: one row, written when it is made and changed by a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The fleet's identity, made once and kept through exports and restores.
    pub fleet: String,
    /// Counts lives of the store: the second (Unix time) at which it was made or restored, always newer than before.
    pub epoch: u64,
    /// When the fleet's first store was made.
    pub created_at: UnixMillis,
    /// When this store was restored from an export, if it was.
    pub restored_at: Option<UnixMillis>,
}

impl Row for Meta {
    const KIND: &'static str = "meta";
    const SCHEMA: u32 = 1;
}

impl Meta {
    /// The row of a new fleet.
    #[must_use]
    pub fn new(fleet: impl Into<String>, now: UnixMillis) -> Self {
        Self { fleet: fleet.into(), epoch: now.0 / 1000, created_at: now, restored_at: None }
    }

    /// The same fleet after a restore: an epoch newer than all that were issued before.
    #[must_use]
    pub fn restored(&self, now: UnixMillis) -> Self {
        let epoch = self.epoch.saturating_add(1).max(now.0 / 1000);
        Self { fleet: self.fleet.clone(), epoch, created_at: self.created_at, restored_at: Some(now) }
    }

    /// Where the row stands.
    #[must_use]
    pub fn key() -> Key {
        const META: Part = Part::named("meta");
        EVERYTHING.row(&META)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        cores: u32,
    }

    impl Row for Sample {
        const KIND: &'static str = "sample";
        const SCHEMA: u32 = 2;

        /// Schema 1 counted half cores.
        fn upgrade(from_schema: u32, mut data: Value) -> Result<Value, String> {
            if from_schema != 1 {
                return Err(format!("schema {from_schema} was never released"));
            }
            let halves = data["half_cores"].take().as_u64().ok_or("half_cores is no number")?;
            Ok(serde_json::json!({ "name": data["name"], "cores": halves / 2 }))
        }
    }

    fn key() -> Key {
        Key::new("/chom/v1/sample/a").unwrap()
    }

    fn error(value: &str) -> String {
        let error = decode_value::<Sample>(&key(), value).unwrap_err();
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    }

    #[test]
    fn a_row_comes_back_as_it_was() {
        let row = Sample { name: "a".to_owned(), cores: 2 };
        let value = encode(&row).unwrap();
        expect![[r#"{"kind":"sample","schema":2,"data":{"name":"a","cores":2}}"#]].assert_eq(&value);
        assert_eq!(decode_value(&key(), &value).unwrap(), Decoded { row, outdated: false });
    }

    #[test]
    fn an_older_row_is_upgraded_and_said_to_be_outdated() {
        let old = r#"{"kind":"sample","schema":1,"data":{"name":"a","half_cores":4}}"#;
        let row = Sample { name: "a".to_owned(), cores: 2 };
        assert_eq!(decode_value(&key(), old).unwrap(), Decoded { row, outdated: true });
    }

    #[test]
    fn errors_name_key_kind_and_schema() {
        expect!["the stored row `/chom/v1/sample/a` (kind `sample`) has schema 3, this release knows up to 2: it was written by a newer release; install that one, or restore an export made before the upgrade"]
            .assert_eq(&error(r#"{"kind":"sample","schema":3,"data":{"other":1}}"#));
        expect!["the stored row `/chom/v1/sample/a` is of kind `vps`, expected `sample`"]
            .assert_eq(&error(r#"{"kind":"vps","schema":1,"data":{}}"#));
        expect!["the stored row `/chom/v1/sample/a` (kind `sample`, schema 0) cannot be upgraded to schema 2: schema 0 was never released"]
            .assert_eq(&error(r#"{"kind":"sample","schema":0,"data":{}}"#));
        expect!["the stored row `/chom/v1/sample/a` (kind `sample`, schema 2) does not decode: missing field `cores` at line 1 column 47"]
            .assert_eq(&error(r#"{"kind":"sample","schema":2,"data":{"name":"a"}}"#));
        expect!["the stored row `/chom/v1/sample/a` has no readable envelope (expected JSON with kind, schema and data): expected ident at line 1 column 2"]
            .assert_eq(&error("nonsense"));
    }

    /// Rows as released versions stored them. A change that breaks this test breaks upgrades: raise the schema instead.
    #[test]
    fn golden_rows_decode() {
        let golden = include_str!("../../golden/store/meta.v1.json");
        let meta = decode_value::<Meta>(&Meta::key(), golden.trim_end()).unwrap();
        assert!(!meta.outdated);
        let expected = Meta {
            fleet: "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e".to_owned(),
            epoch: 1_795_392_000,
            created_at: UnixMillis(1_795_392_000_123),
            restored_at: None,
        };
        assert_eq!(meta.row, expected);
        assert_eq!(encode(&expected).unwrap().as_ref(), golden.trim_end());
    }

    #[test]
    fn a_restore_begins_a_newer_epoch_even_when_the_clock_stepped_back() {
        let made = Meta::new("fleet", UnixMillis(2_000_000));
        assert_eq!(made.epoch, 2000);
        assert_eq!(made.restored(UnixMillis(3_000_000)).epoch, 3000);
        assert_eq!(made.restored(UnixMillis(1_000_000)).epoch, 2001);
        assert_eq!(made.restored(UnixMillis(2_000_000)).epoch, 2001);
    }
}
