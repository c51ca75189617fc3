//! ◆ How data looks on standard output: tables and details for people, JSON and YAML for programs. Pure but for
//! [`Screen::show`], which writes; progress and errors do not come here.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use chom_protocol::UnixMillis;
use serde::Serialize;

use crate::error::Failure;

/// How data is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns for people.
    Wide,
    /// JSON, as the API has it.
    Json,
    /// YAML, the same fields.
    Yaml,
}

/// What rendering depends on, besides the data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// More columns.
    pub(crate) wide: bool,
    /// Colours (SGR sequences, ECMA-48).
    pub(crate) colour: bool,
    /// Now, for ages.
    pub(crate) now: UnixMillis,
}

/// What a cell's content means; its colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Look at it.
    Warn,
    /// Look at it now.
    Bad,
}

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell whose content means something.
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: plain(&text.into()), tone }
    }

    fn painted(&self, colour: bool) -> String {
        let code = match self.tone {
            Tone::Plain => return self.text.clone(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
        };
        if colour { format!("\u{1b}[{code}m{}\u{1b}[0m", self.text) } else { self.text.clone() }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Self::new(value.to_string(), Tone::Plain)
    }
}

/// Rows under headings. A column without content is left out, unless it was said to stay.
#[derive(Debug, Default)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// Space between columns.
const GAP: &str = "  ";

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; as many cells as there are headings.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.headings.len(), "a cell for each heading");
        self.rows.push(cells);
    }

    /// The table as text; `nothing` where it has no rows.
    pub(crate) fn render(&self, view: &View, nothing: &str) -> String {
        if self.rows.is_empty() {
            return format!("{nothing}\n");
        }
        // PROBLEM is the one column that is only there when there is something to see.
        let shown: Vec<usize> = (0..self.headings.len())
            .filter(|&c| self.headings[c] != "PROBLEM" || self.rows.iter().any(|row| !row[c].text.is_empty()))
            .collect();
        let width = |c: usize| {
            let cells = self.rows.iter().map(|row| row[c].text.chars().count());
            cells.max().unwrap_or(0).max(self.headings[c].chars().count())
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let heading: Vec<Cell> = self.headings.iter().map(Cell::from).collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for (position, &column) in shown.iter().enumerate() {
                let cell = &row[column];
                line.push_str(&cell.painted(view.colour));
                if position + 1 < shown.len() {
                    let padding = widths[column].saturating_sub(cell.text.chars().count());
                    line.extend(std::iter::repeat_n(' ', padding));
                    line.push_str(GAP);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Labels and values of one thing.
#[derive(Debug, Default)]
pub(crate) struct Details {
    lines: Vec<(&'static str, Cell)>,
}

impl Details {
    /// Adds a line; nothing where the value is empty.
    pub(crate) fn line(&mut self, label: &'static str, value: impl Into<Cell>) {
        let value = value.into();
        if !value.text.is_empty() {
            self.lines.push((label, value));
        }
    }

    /// Adds several values under one label.
    pub(crate) fn lines<T: Into<Cell>>(&mut self, label: &'static str, values: impl IntoIterator<Item = T>) {
        for (position, value) in values.into_iter().enumerate() {
            self.lines.push((if position == 0 { label } else { "" }, value.into()));
        }
    }

    /// The details as text.
    pub(crate) fn render(&self, view: &View) -> String {
        let width = self.lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 1;
        let mut text = String::new();
        for (label, value) in &self.lines {
            let label = if label.is_empty() { String::new() } else { format!("{label}:") };
            let _ = writeln!(text, "{label:width$}{GAP}{}", value.painted(view.colour));
        }
        text
    }
}

/// Standard output, in the chosen format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    /// Which format.
    pub(crate) format: Format,
    /// How text is rendered.
    pub(crate) view: View,
}

impl Screen {
    /// Prints data: the value itself for programs, `text` for people.
    pub(crate) fn show<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce(&View) -> String,
    ) -> Result<(), Failure> {
        write_out(&self.rendered(value, text)?)
    }

    fn rendered<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce(&View) -> String,
    ) -> Result<String, Failure> {
        match self.format {
            Format::Table | Format::Wide => Ok(text(&self.view)),
            Format::Json => serde_json::to_string_pretty(value)
                .map(|json| json + "\n")
                .map_err(|error| Failure::Format { format: "JSON", reason: error.to_string() }),
            Format::Yaml => serde_norway::to_string(value)
                .map_err(|error| Failure::Format { format: "YAML", reason: error.to_string() }),
        }
    }
}

/// Writes to standard output and flushes.
pub(crate) fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// The text without what steers a terminal: names of guests and answers of mail servers come from strangers.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A span of time as people say it, to two units: `42s`, `3m12s`, `5h07m`, `2d3h`.
pub(crate) fn span(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m{:02}s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{}h{:02}m", seconds / HOUR, seconds % HOUR / MINUTE),
        _ => format!("{}d{}h", seconds / DAY, seconds % DAY / HOUR),
    }
}

/// Milliseconds since 1970 of an RFC 3339 time.
fn millis(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// How long ago a time (RFC 3339) was; the time itself where it cannot be read.
pub(crate) fn age(time: &str, now: UnixMillis) -> String {
    match millis(time) {
        Some(then) => span(now.0.saturating_sub(u64::try_from(then).unwrap_or(0)) / 1000),
        None => time.to_owned(),
    }
}

/// How long until a time (RFC 3339); `0s` once it is over.
pub(crate) fn until(time: &str, now: UnixMillis) -> String {
    match millis(time) {
        Some(then) => span(u64::try_from(then).unwrap_or(0).saturating_sub(now.0) / 1000),
        None => time.to_owned(),
    }
}

/// A time with its age: `2026-11-23T00:00:00Z (3m12s ago)`.
pub(crate) fn moment(time: &str, now: UnixMillis) -> String {
    format!("{time} ({} ago)", age(time, now))
}

/// The API's word for an enum's value, with spaces: `stop_asked` is `stop asked`.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => String::new(),
    }
}

/// `yes` or `no`.
pub(crate) const fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// A list on one line; `-` for an empty one.
pub(crate) fn joined<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// A share as whole percent; `-` where nothing was read.
pub(crate) fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0))
}

/// A narrow or wide view without colours at a fixed moment, for tests that render.
#[cfg(test)]
pub(crate) fn test_view(wide: bool) -> View {
    let now = "2026-11-23T12:00:00Z".parse::<jiff::Timestamp>().unwrap();
    View { wide, colour: false, now: UnixMillis(u64::try_from(now.as_millisecond()).unwrap()) }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "PROBLEM"]);
        table.row(vec![Cell::from("a-long-name"), Cell::new("running", Tone::Good), Cell::default()]);
        table.row(vec![Cell::from("b"), Cell::new("crashed", Tone::Bad), Cell::default()]);
        table
    }

    #[test]
    fn columns_line_up_and_lines_have_no_spaces_at_their_end() {
        expect![[r#"
            NAME         STATE
            a-long-name  running
            b            crashed
        "#]]
        .assert_eq(&sample().render(&test_view(false), "none"));
    }

    #[test]
    fn the_problem_column_comes_with_the_first_problem() {
        let mut table = sample();
        table.row(vec![Cell::from("c"), Cell::from("stopped"), Cell::from("no image")]);
        expect![[r#"
            NAME         STATE    PROBLEM
            a-long-name  running
            b            crashed
            c            stopped  no image
        "#]]
        .assert_eq(&table.render(&test_view(false), "none"));
    }

    #[test]
    fn colours_do_not_move_columns() {
        let coloured = sample().render(&View { colour: true, ..test_view(false) }, "none");
        let bare = coloured.replace("\u{1b}[32m", "").replace("\u{1b}[31m", "").replace("\u{1b}[0m", "");
        assert_ne!(coloured, bare);
        assert_eq!(bare, sample().render(&test_view(false), "none"));
    }

    #[test]
    fn an_empty_list_says_so() {
        assert_eq!(Table::new(&["NAME"]).render(&test_view(false), "no hosts"), "no hosts\n");
    }

    #[test]
    fn a_strangers_name_cannot_steer_the_terminal() {
        let cell = Cell::from("evil\u{1b}[2J\nname");
        assert_eq!(cell.painted(true), "evil [2J name");
    }

    #[test]
    fn spans_have_at_most_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (42, "42s"),
            (192, "3m12s"),
            (3600, "1h00m"),
            (18_420, "5h07m"),
            (86_399, "23h59m"),
            (183_600, "2d3h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_time_ahead_of_this_clock_has_no_age() {
        let now = test_view(false).now;
        assert_eq!(age("2026-11-23T12:00:05Z", now), "0s");
        assert_eq!(age("2026-11-23T11:56:48Z", now), "3m12s");
        assert_eq!(until("2026-11-23T12:00:05Z", now), "5s");
        assert_eq!(age("yesterday", now), "yesterday");
    }

    #[test]
    fn programs_get_the_fields_of_the_api() {
        #[derive(Serialize)]
        struct Row {
            name: &'static str,
            age_seconds: Option<u64>,
        }
        let rows = [Row { name: "a", age_seconds: None }];
        let text = |format| Screen { format, view: test_view(false) }.rendered(&rows, |_| "table".to_owned());
        expect![[r#"
            [
              {
                "name": "a",
                "age_seconds": null
              }
            ]
        "#]]
        .assert_eq(&text(Format::Json).unwrap());
        expect![[r#"
            - name: a
              age_seconds: null
        "#]]
        .assert_eq(&text(Format::Yaml).unwrap());
        assert_eq!(text(Format::Table).unwrap(), "table");
    }
}
