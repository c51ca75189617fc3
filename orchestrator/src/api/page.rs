//! Lists by pages: a cursor names the last row that was given, so that rows made or removed meanwhile move nothing. A page
//! touches only its own rows.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::marker::PhantomData;
use std::ops::Bound;
use std::str::FromStr;

use axum::extract::{FromRequestParts, MatchedPath, Query};
use axum::http::request::Parts;
use axum::response::Response;
use chom_protocol::api::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, Page};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;

use crate::api::fields::Fields;
use crate::api::problem::{ApiError, Kind, shown};
use crate::api::{App, answer};

/// Which part of a list is asked for, and what of each row.
pub(super) struct Paging {
    pub(super) limit: usize,
    pub(super) cursor: Option<String>,
    pub(super) fields: Option<Fields>,
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

impl<F: Filters> FromRequestParts<App> for Filtered<F> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let (paging, filters) = Paging::read(parts, app, F::NAMES).await?;
        Ok(Self(paging, filters, PhantomData))
    }
}

impl FromRequestParts<App> for Paging {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        Self::read(parts, app, &[]).await.map(|(paging, _)| paging)
    }
}

impl Paging {
    /// Reads the parameters of a list that knows `others` besides.
    pub(super) async fn read(
        parts: &mut Parts,
        app: &App,
        others: &[&str],
    ) -> Result<(Self, BTreeMap<String, String>), ApiError> {
        let unreadable =
            |_| ApiError::new(Kind::Malformed, "the parameters cannot be read; percent-encode them");
        let Query(pairs) =
            Query::<Vec<(String, String)>>::from_request_parts(parts, app).await.map_err(unreadable)?;
        let mut paging = Self { limit: PAGE_ROWS_DEFAULT as usize, cursor: None, fields: None };
        let mut given = BTreeMap::new();
        for (name, value) in pairs {
            match name.as_str() {
                "limit" => paging.limit = rows(&value)?,
                "cursor" => paging.cursor = Some(value),
                "fields" => {
                    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
                    paging.fields = Some(app.shapes.read(path, &value)?);
                }
                known if others.contains(&known) => {
                    if given.insert(name.clone(), value).is_some() {
                        let detail = format!("`{name}` is given twice; give it once");
                        return Err(ApiError::new(Kind::Malformed, detail).at(name));
                    }
                }
                other => {
                    let other = shown(other);
                    let mut known = vec!["`limit`".to_owned(), "`fields`".to_owned()];
                    known.extend(others.iter().map(|name| format!("`{name}`")));
                    let known = known.join(", ");
                    let detail = format!("lists know no parameter `{other}`; they take {known} and `cursor`");
                    return Err(ApiError::new(Kind::Malformed, detail).at(other));
                }
            }
        }
        Ok((paging, given))
    }
}

fn rows(text: &str) -> Result<usize, ApiError> {
    let rows = text.parse().ok().filter(|rows| (1..=PAGE_ROWS_MAX).contains(rows)).ok_or_else(|| {
        let detail = format!("`{}` is no limit; give a number from 1 to {PAGE_ROWS_MAX}", shown(text));
        ApiError::new(Kind::Malformed, detail).at("limit")
    })?;
    Ok(usize::try_from(rows).unwrap_or(usize::MAX))
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
        Ok(self.answer(items, next_cursor))
    }

    /// The answer of these rows, with the fields that were asked for.
    pub(super) fn answer<T: Serialize>(&self, items: Vec<T>, next_cursor: Option<String>) -> Response {
        match &self.fields {
            None => answer::page(&Page { items, next_cursor }),
            Some(fields) => {
                // A view always has a JSON text; the same is written where no fields are named.
                let cut = |row: T| fields.pick(serde_json::to_value(row).unwrap_or_default());
                answer::page(&Page { items: items.into_iter().map(cut).collect(), next_cursor })
            }
        }
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

/// The cursor of a list that names its last row.
pub(super) fn write_cursor(list: &str, last: &impl Display) -> String {
    BASE64URL_NOPAD.encode(format!("{list} {last}").as_bytes())
}

/// What a cursor of a list names.
///
/// # Errors
/// When it is none of that list.
pub(super) fn read_cursor<K: FromStr>(list: &str, cursor: &str) -> Result<K, ApiError> {
    let bytes = BASE64URL_NOPAD.decode(cursor.as_bytes()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let last = text.as_deref().and_then(|text| text.strip_prefix(list)?.strip_prefix(' ')?.parse().ok());
    last.ok_or_else(|| {
        let detail = "this cursor is not one of this list in this order; take `next_cursor` of the page before, or begin without one";
        ApiError::new(Kind::Malformed, detail).at("cursor")
    })
}
