//! Lists by pages: a cursor names the last row that was given, so that rows made or removed meanwhile move nothing. A page
//! touches only its own rows.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::marker::PhantomData;
use std::ops::Bound;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::response::Response;
use chom_protocol::api::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, Page};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;

use crate::api::answer;
use crate::api::problem::{ApiError, Kind, shown};

/// Which part of a list is asked for.
pub(super) struct Paging {
    limit: usize,
    cursor: Option<String>,
}

/// The parameters of one list besides those of every list.
pub(super) trait Filters {
    /// What they are called.
    const NAMES: &'static [&'static str];
}

/// Which part of a list is asked for, and which of its rows.
pub(super) struct Filtered<F>(
    pub(super) Paging,
    pub(super) BTreeMap<String, String>,
    pub(super) PhantomData<F>,
);

impl<F: Filters, S: Send + Sync> FromRequestParts<S> for Filtered<F> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let (paging, filters) = Paging::read(parts, state, F::NAMES).await?;
        Ok(Self(paging, filters, PhantomData))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Self::read(parts, state, &[]).await.map(|(paging, _)| paging)
    }
}

impl Paging {
    /// Reads the parameters of a list that knows `filters` besides.
    async fn read<S: Send + Sync>(
        parts: &mut Parts,
        state: &S,
        filters: &[&str],
    ) -> Result<(Self, BTreeMap<String, String>), ApiError> {
        let unreadable =
            |_| ApiError::new(Kind::Malformed, "the parameters cannot be read; percent-encode them");
        let Query(pairs) =
            Query::<Vec<(String, String)>>::from_request_parts(parts, state).await.map_err(unreadable)?;
        let (mut limit, mut cursor) = (PAGE_ROWS_DEFAULT, None);
        let mut given = BTreeMap::new();
        for (name, value) in pairs {
            match name.as_str() {
                "limit" => limit = rows(&value)?,
                "cursor" => cursor = Some(value),
                known if filters.contains(&known) => {
                    given.insert(name, value);
                }
                other => {
                    let other = shown(other);
                    let mut known = vec!["`limit`".to_owned()];
                    known.extend(filters.iter().map(|name| format!("`{name}`")));
                    let known = known.join(", ");
                    let detail = format!("lists know no parameter `{other}`; they take {known} and `cursor`");
                    return Err(ApiError::new(Kind::Malformed, detail).at(other));
                }
            }
        }
        Ok((Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), cursor }, given))
    }
}

fn rows(text: &str) -> Result<u32, ApiError> {
    text.parse().ok().filter(|rows| (1..=PAGE_ROWS_MAX).contains(rows)).ok_or_else(|| {
        let detail = format!("`{}` is no limit; give a number from 1 to {PAGE_ROWS_MAX}", shown(text));
        ApiError::new(Kind::Malformed, detail).at("limit")
    })
}

impl Paging {
    /// The page of a list named `list`: `rows` gives its rows in order from a bound on, `key` a row's place in that order.
    ///
    /// # Errors
    /// When the cursor is not one of this list.
    pub(super) fn page<K, R, I, T>(
        &self,
        list: &str,
        rows: impl FnOnce(Bound<K>) -> I,
        key: impl Fn(&R) -> K,
        view: impl Fn(R) -> T,
    ) -> Result<Response, ApiError>
    where
        K: FromStr + Display,
        I: Iterator<Item = R>,
        T: Serialize,
    {
        let from = match &self.cursor {
            None => Bound::Unbounded,
            Some(cursor) => Bound::Excluded(read_cursor(list, cursor)?),
        };
        let mut rows = rows(from).peekable();
        let mut items = Vec::with_capacity(self.limit.min(rows.size_hint().1.unwrap_or(self.limit)));
        let mut last = None;
        while items.len() < self.limit
            && let Some(row) = rows.next()
        {
            if items.len() + 1 == self.limit {
                last = Some(key(&row));
            }
            items.push(view(row));
        }
        let more = rows.peek().is_some();
        let next_cursor = last.filter(|_| more).map(|last| write_cursor(list, &last));
        Ok(answer::page(&Page { items, next_cursor }))
    }
}

/// Whether a row stands behind where a page begins.
pub(super) fn is_behind<K: Ord>(key: &K, from: &Bound<K>) -> bool {
    match from {
        Bound::Excluded(last) => key > last,
        Bound::Included(first) => key >= first,
        Bound::Unbounded => true,
    }
}

fn write_cursor(list: &str, last: &impl Display) -> String {
    BASE64URL_NOPAD.encode(format!("{list} {last}").as_bytes())
}

fn read_cursor<K: FromStr>(list: &str, cursor: &str) -> Result<K, ApiError> {
    let bytes = BASE64URL_NOPAD.decode(cursor.as_bytes()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let last = text.as_deref().and_then(|text| text.strip_prefix(list)?.strip_prefix(' ')?.parse().ok());
    last.ok_or_else(|| {
        let detail = "this cursor is not one of this list; take `next_cursor` of the page before, or begin without one";
        ApiError::new(Kind::Malformed, detail).at("cursor")
    })
}
