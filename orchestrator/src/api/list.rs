//! Lists that are filtered and sorted. A page is found by walking an order that memory keeps, or by sorting a few candidates;
//! how many rows a page may look at is bounded, so that no filter makes everybody else wait. Knows no resource.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use chom_protocol::UnixMillis;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::App;
use crate::api::page::{Paging, read_cursor, write_cursor};
use crate::api::problem::{ApiError, Kind, shown};
use crate::clock;
use crate::fleet::Caller;
use crate::fleet::events::Touched;
use crate::fleet::observed::Snapshot;
use crate::fleet::state::State;

/// Rows that one page looks at when it walks an order: some milliseconds. A page that ends for this reason is shorter than
/// asked for, or empty, and has a cursor.
pub(super) const LOOKED_AT_MAX: usize = 10_000;
/// Candidates that are sorted for one page instead of walking the order of all rows: about as much work.
pub(super) const SORTED_MAX: usize = 10_000;

/// A filter as the documents describe it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
}

/// A list's parameters besides those of every list.
pub(super) trait List: Sized + Send {
    /// What its cursors are marked with.
    const NAME: &'static str;
    /// Which rows.
    const FILTERS: &'static [Parameter];
    /// Those filters that a tenant's callers do not have: what they name is not told to them.
    const OF_FLEET: &'static [&'static str] = &[];
    /// What rows can be sorted by; the first where nothing is asked for.
    const SORTS: &'static [&'static str];
    /// Whether it can be watched.
    const IS_WATCHED: bool = false;

    /// Reads its filters.
    fn read(given: &Given) -> Result<Self, ApiError>;
}

/// What the OpenAPI document says of a list's parameters.
pub(super) struct About {
    pub(super) operation: &'static str,
    pub(super) filters: &'static [Parameter],
    pub(super) sorts: &'static [&'static str],
    pub(super) is_watched: bool,
}

impl About {
    pub(super) const fn of<L: List>(operation: &'static str) -> Self {
        Self { operation, filters: L::FILTERS, sorts: L::SORTS, is_watched: L::IS_WATCHED }
    }
}

/// By what rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) by: &'static str,
    pub(super) descending: bool,
}

impl fmt::Display for Sort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", if self.descending { "-" } else { "" }, self.by)
    }
}

/// What is asked of a list.
pub(super) struct Query<L> {
    pub(super) paging: Paging,
    pub(super) sort: Sort,
    pub(super) watch: bool,
    pub(super) list: L,
}

impl<L: List> FromRequestParts<App> for Query<L> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let is_of_tenant = parts.extensions.get::<Caller>().is_none_or(|caller| caller.tenant.is_some());
        let hidden = |name: &str| is_of_tenant && L::OF_FLEET.contains(&name);
        let mut known: Vec<&str> =
            L::FILTERS.iter().map(|filter| filter.name).filter(|name| !hidden(name)).collect();
        known.push("sort");
        if L::IS_WATCHED {
            known.push("watch");
        }
        let (paging, given) = Paging::read(parts, app, &known).await?;
        let given = Given(given);
        let sort = sort::<L>(given.text("sort"))?;
        let watch = given.yes_no("watch")?.unwrap_or_default();
        if watch && paging.cursor.is_some() {
            let detail =
                "a watch begins with all rows; resume it with the header `Last-Event-ID`, not with a cursor";
            return Err(ApiError::new(Kind::Malformed, detail).at("cursor"));
        }
        Ok(Self { paging, sort, watch, list: L::read(&given)? })
    }
}

fn sort<L: List>(text: Option<&str>) -> Result<Sort, ApiError> {
    let first = L::SORTS.first().copied().unwrap_or_default();
    let Some(text) = text else { return Ok(Sort { by: first, descending: false }) };
    let name = text.strip_prefix('-');
    let by = L::SORTS.iter().find(|by| **by == name.unwrap_or(text)).copied();
    by.map(|by| Sort { by, descending: name.is_some() }).ok_or_else(|| {
        let known: Vec<String> = L::SORTS.iter().map(|by| format!("`{by}`")).collect();
        let detail = format!(
            "this list is not sorted by `{}`; it is by {}, or the other way round with `-` before it",
            shown(text),
            known.join(", ")
        );
        ApiError::new(Kind::Malformed, detail).at("sort")
    })
}

/// The parameters of a request.
pub(super) struct Given(BTreeMap<String, String>);

impl Given {
    pub(super) const fn of(parameters: BTreeMap<String, String>) -> Self {
        Self(parameters)
    }

    /// A parameter's text.
    pub(super) fn text(&self, name: &'static str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What is looked for in names: in lower case, as names are.
    pub(super) fn needle(&self, name: &'static str) -> Option<String> {
        self.text(name).filter(|text| !text.is_empty()).map(str::to_lowercase)
    }

    /// A parameter of one value.
    pub(super) fn one<T: FromStr<Err: fmt::Display>>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, ApiError> {
        let bad = |error: T::Err| ApiError::new(Kind::Malformed, shown_whole(&error.to_string())).at(name);
        self.text(name).map(|text| shown(text).parse().map_err(bad)).transpose()
    }

    /// A parameter that is `true` or `false`.
    pub(super) fn yes_no(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        self.text(name)
            .map(|text| match text {
                "true" => Ok(true),
                "false" => Ok(false),
                other => {
                    let detail = format!("`{}` is neither `true` nor `false`", shown(other));
                    Err(ApiError::new(Kind::Malformed, detail).at(name))
                }
            })
            .transpose()
    }

    /// A parameter of words that the API has, several with commas between them. None: any.
    pub(super) fn words<T: DeserializeOwned>(&self, name: &'static str) -> Result<Vec<T>, ApiError> {
        let word = |text: &str| {
            let word = serde_json::Value::String(shown(text.trim()));
            // The error lists the words that there are.
            serde_json::from_value(word)
                .map_err(|error| ApiError::new(Kind::Malformed, error.to_string()).at(name))
        };
        self.text(name).map_or(Ok(Vec::new()), |text| text.split(',').map(word).collect())
    }
}

fn shown_whole(text: &str) -> String {
    text.chars().take(300).collect()
}

/// Whether what a row has is among what is asked for.
pub(super) fn is_among<T: PartialEq>(wanted: &[T], found: impl FnOnce() -> T) -> bool {
    wanted.is_empty() || wanted.contains(&found())
}

/// What a row is sorted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key<'a> {
    Nothing,
    Number(u64),
    Text(Cow<'a, str>),
}

impl<'a> Key<'a> {
    pub(super) fn text(text: &'a impl AsText) -> Self {
        Self::Text(Cow::Borrowed(text.as_text()))
    }

    pub(super) const fn time(at: UnixMillis) -> Self {
        Self::Number(at.0)
    }

    fn into_owned(self) -> Key<'static> {
        match self {
            Self::Nothing => Key::Nothing,
            Self::Number(number) => Key::Number(number),
            Self::Text(text) => Key::Text(Cow::Owned(text.into_owned())),
        }
    }
}

/// What has a text to be sorted by.
pub(super) trait AsText {
    fn as_text(&self) -> &str;
}

impl AsText for chom_protocol::Name {
    fn as_text(&self) -> &str {
        self.as_str()
    }
}

impl AsText for String {
    fn as_text(&self) -> &str {
        self
    }
}

/// Where a row stands: by what it is sorted, then by its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place<'a, I> {
    pub(super) key: Key<'a>,
    pub(super) id: I,
}

impl<I> Place<'_, I> {
    fn into_owned(self) -> Place<'static, I> {
        Place { key: self.key.into_owned(), id: self.id }
    }
}

impl<I: fmt::Display> fmt::Display for Place<'_, I> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, id } = self;
        match key {
            Key::Nothing => write!(out, "{id}"),
            Key::Number(number) => write!(out, "{id} #{number}"),
            Key::Text(text) => write!(out, "{id} ={text}"),
        }
    }
}

impl<I: FromStr> FromStr for Place<'static, I> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (id, key) = match text.split_once(' ') {
            None => (text, Key::Nothing),
            Some((id, key)) => {
                let number = key.strip_prefix('#').and_then(|number| number.parse().ok()).map(Key::Number);
                let text = || key.strip_prefix('=').map(|text| Key::Text(Cow::Owned(text.to_owned())));
                (id, number.or_else(text).ok_or(())?)
            }
        };
        Ok(Self { key, id: id.parse().map_err(|_| ())? })
    }
}

/// A part of a list: what comes behind a place, in an order.
#[derive(Debug, Clone)]
pub(super) struct Part<I> {
    pub(super) from: Option<Place<'static, I>>,
    pub(super) sort: Sort,
    pub(super) limit: usize,
}

/// The rows of a part, and behind which place the next one begins.
#[derive(Debug)]
pub(super) struct Chosen<R, I> {
    pub(super) rows: Vec<R>,
    pub(super) next: Option<Place<'static, I>>,
}

impl<R, I> Chosen<R, I> {
    pub(super) fn map<T>(self, view: impl FnMut(R) -> T) -> Chosen<T, I> {
        Chosen { rows: self.rows.into_iter().map(view).collect(), next: self.next }
    }
}

impl<I: Ord + Clone> Part<I> {
    /// The part of rows that come in its order and begin behind its place, as far as they fit.
    pub(super) fn walk<'a, R: 'a>(
        &self,
        rows: impl Iterator<Item = R>,
        fits: impl Fn(&R) -> bool,
        place: impl Fn(&R) -> Place<'a, I>,
    ) -> Chosen<R, I> {
        let mut chosen: Vec<R> = Vec::with_capacity(self.limit.min(LOOKED_AT_MAX));
        let mut passed = None;
        for (looked_at, row) in rows.enumerate() {
            if looked_at >= LOOKED_AT_MAX {
                return Chosen { rows: chosen, next: passed };
            }
            let fits = fits(&row);
            if fits && chosen.len() == self.limit {
                return Chosen { next: chosen.last().map(|last| place(last).into_owned()), rows: chosen };
            }
            if looked_at + 1 == LOOKED_AT_MAX {
                passed = Some(place(&row).into_owned());
            }
            if fits {
                chosen.push(row);
            }
        }
        Chosen { rows: chosen, next: None }
    }

    /// The part of rows that come in any order and all fit.
    pub(super) fn select<'a, R: 'a>(
        &self,
        rows: impl Iterator<Item = R>,
        place: impl Fn(&R) -> Place<'a, I>,
    ) -> Chosen<R, I> {
        let descending = self.sort.descending;
        let is_behind = |place: &Place<'a, I>| match &self.from {
            None => true,
            Some(from) if descending => place < from,
            Some(from) => place > from,
        };
        let mut all: Vec<(Place<'a, I>, R)> =
            rows.map(|row| (place(&row), row)).filter(|(place, _)| is_behind(place)).collect();
        let order = |one: &(Place<'a, I>, R), other: &(Place<'a, I>, R)| {
            if descending { other.0.cmp(&one.0) } else { one.0.cmp(&other.0) }
        };
        let is_more = all.len() > self.limit;
        if is_more {
            all.select_nth_unstable_by(self.limit, order);
            all.truncate(self.limit);
        }
        all.sort_unstable_by(order);
        let next = all.last().filter(|_| is_more).map(|(place, _)| place.clone().into_owned());
        Chosen { rows: all.into_iter().map(|(_, row)| row).collect(), next }
    }

    /// From where to where in an ordered map its rows are.
    pub(super) fn bounds<K>(&self, from: Option<K>) -> (Bound<K>, Bound<K>) {
        let from = from.map_or(Bound::Unbounded, Bound::Excluded);
        if self.sort.descending { (Bound::Unbounded, from) } else { (from, Bound::Unbounded) }
    }

    /// Its id alone, where rows are sorted by nothing else.
    pub(super) fn start_id(&self) -> Option<I> {
        self.from.as_ref().map(|place| place.id.clone())
    }

    /// Rows of an ordered map in its direction.
    pub(super) fn directed<'a, R>(
        &self,
        rows: impl DoubleEndedIterator<Item = R> + 'a,
    ) -> Box<dyn Iterator<Item = R> + 'a> {
        if self.sort.descending { Box::new(rows.rev()) } else { Box::new(rows) }
    }
}

impl<L: List> Query<L> {
    /// Which part is asked for.
    ///
    /// # Errors
    /// When the cursor is not one of this list in this order.
    pub(super) fn part<I: FromStr>(&self) -> Result<Part<I>, ApiError> {
        let cursor = self.paging.cursor.as_deref();
        let from = cursor.map(|cursor| read_cursor(&self.title(), cursor)).transpose()?;
        Ok(Part { from, sort: self.sort, limit: self.paging.limit })
    }

    /// The answer of a part.
    pub(super) fn answer<T: Serialize, I: fmt::Display>(&self, chosen: Chosen<T, I>) -> Response {
        let Chosen { rows, next } = chosen;
        self.paging.answer(rows, next.map(|next| write_cursor(&self.title(), &next)))
    }

    fn title(&self) -> String {
        format!("{} {}", L::NAME, self.sort)
    }
}

/// All that is known at one moment, and for whom.
pub(super) struct Sight {
    pub(super) app: App,
    pub(super) caller: Caller,
    pub(super) state: Arc<State>,
    pub(super) observations: Snapshot,
    pub(super) now: UnixMillis,
}

impl Sight {
    pub(super) fn of(app: App, caller: Caller) -> Self {
        let (state, observations) = (app.fleet.state(), app.fleet.observations().snapshot());
        Self { app, caller, state, observations, now: clock::now() }
    }
}

/// A list of rows that the store has: by parts, and row by row.
pub(super) trait Rows: List + Sync + 'static {
    /// What its rows are named by.
    type Id: Copy + Ord + FromStr + fmt::Display + Send + Sync + 'static;
    /// How they are shown.
    type View: Serialize + Send;

    /// A part of the rows that are there for the caller and fit.
    fn part(&self, sight: &Sight, part: &Part<Self::Id>) -> Result<Chosen<Self::View, Self::Id>, ApiError>;

    /// A row, if it is there for the caller and fits.
    fn row(&self, sight: &Sight, id: Self::Id) -> Option<Self::View>;

    /// The id of a row.
    fn id(view: &Self::View) -> Self::Id;

    /// Which rows are shown in another way, or are there no more, once something has changed.
    fn concerned(sight: &Sight, touched: &Touched) -> Vec<Self::Id>;
}

/// The answer to a list.
pub(super) fn answer<L: Rows>(app: App, caller: Caller, query: &Query<L>) -> Result<Response, ApiError> {
    let sight = Sight::of(app, caller);
    Ok(query.answer(query.list.part(&sight, &query.part()?)?))
}

/// The refusal of a cursor whose sort key makes no sense.
pub(super) fn bad_cursor() -> ApiError {
    let detail = "this cursor is not one of this list in this order; take `next_cursor` of the page before, or begin without one";
    ApiError::new(Kind::Malformed, detail).at("cursor")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few keys and ids, so that many rows share one.
    fn any_rows() -> impl Strategy<Value = Vec<(u8, u16)>> {
        prop::collection::btree_map(0..40_u16, 0..4_u8, 0..40)
            .prop_map(|rows| rows.into_iter().map(|(id, key)| (key, id)).collect())
    }

    fn place(row: &(u8, u16)) -> Place<'static, u16> {
        Place { key: Key::Text(format!("key {}", row.0).into()), id: row.1 }
    }

    fn in_order(mut rows: Vec<(u8, u16)>, descending: bool) -> Vec<(u8, u16)> {
        rows.sort_unstable();
        if descending {
            rows.reverse();
        }
        rows
    }

    /// One page by either way; its cursor goes through its text.
    fn page(
        rows: &[(u8, u16)],
        part: &Part<u16>,
        walks: bool,
        fits: fn(&(u8, u16)) -> bool,
    ) -> Chosen<(u8, u16), u16> {
        let chosen = if walks {
            let behind = in_order(rows.to_vec(), part.sort.descending).into_iter().filter(|row| {
                let (place, descending) = (place(row), part.sort.descending);
                part.from.as_ref().is_none_or(|from| if descending { place < *from } else { place > *from })
            });
            part.walk(behind, fits, place)
        } else {
            part.select(rows.iter().copied().filter(fits), place)
        };
        Chosen { next: chosen.next.map(|next| next.to_string().parse().unwrap()), ..chosen }
    }

    proptest! {
        #[test]
        fn pages_together_are_the_whole_list_sorted_and_filtered(
            rows in any_rows(),
            limit in 1..9_usize,
            descending in any::<bool>(),
            walks in any::<bool>(),
            gone in prop::collection::vec(0..40_u16, 0..10),
            come in prop::collection::vec((0..4_u8, 40..60_u16), 0..10),
        ) {
            let fits = |row: &(u8, u16)| !row.1.is_multiple_of(3);
            let sort = Sort { by: "key", descending };
            let (mut part, mut found) = (Part { from: None, sort, limit }, Vec::new());
            let mut now = rows.clone();
            let (mut gone, mut come) = (gone.iter(), come.iter());
            loop {
                let chosen = page(&now, &part, walks, fits);
                prop_assert!(chosen.rows.len() <= limit);
                found.extend(chosen.rows);
                part.from = chosen.next;
                if part.from.is_none() {
                    break;
                }
                // Rows come and go between pages, the one that the cursor names too.
                if let Some(id) = gone.next() {
                    now.retain(|row| row.1 != *id);
                }
                if let Some(row) = come.next().filter(|row| now.iter().all(|other| other.1 != row.1)) {
                    now.push(*row);
                }
            }
            prop_assert_eq!(&found, &in_order(found.clone(), descending), "in order, nothing twice");
            prop_assert!(found.iter().all(fits));
            for row in rows.iter().filter(|row| fits(row)) {
                prop_assert!(found.contains(row) || !now.contains(row), "{row:?} was there all the time");
            }
        }

        #[test]
        fn no_text_makes_a_cursor_panic(text in ".{0,40}") {
            let _ = text.parse::<Place<'static, u16>>();
        }
    }

    #[test]
    fn a_page_looks_at_a_bounded_number_of_rows_and_goes_on_behind_them() {
        let sort = Sort { by: "id", descending: false };
        let mut part = Part { from: None, sort, limit: 100 };
        let (mut found, mut pages) = (Vec::new(), 0);
        let count = LOOKED_AT_MAX as u64 * 3;
        loop {
            let from = part.start_id().map_or(0, |last| last + 1);
            let chosen =
                part.walk(from..count, |row| row % 9_999 == 1, |row| Place { key: Key::Nothing, id: *row });
            (pages, part.from) = (pages + 1, chosen.next);
            found.extend(chosen.rows);
            if part.from.is_none() {
                break;
            }
        }
        assert_eq!((found, pages), (vec![1, 10_000, 19_999, 29_998], 3));
    }
}
