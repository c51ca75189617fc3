//! What a bench found, and the table it is printed in. Judges a value by its target; measures nothing.

use std::fmt;

/// How a value is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// The value itself, at most.
    ValueAtMost(f64),
    /// Value through peer, at most.
    RatioAtMost(f64),
    /// Value through peer, at least.
    RatioAtLeast(f64),
    /// Value less peer, at most.
    MoreByAtMost(f64),
    /// Only shown.
    None,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    what: String,
    unit: &'static str,
    value: Result<f64, String>,
    peer: Option<(String, f64)>,
    target: Target,
}

impl Line {
    /// A measured value.
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), unit, value: Ok(value), peer: None, target: Target::None }
    }

    /// A value that could not be measured, and why.
    pub(crate) fn missing(what: impl Into<String>, why: impl fmt::Display) -> Self {
        let value = Err(why.to_string());
        Self { what: what.into(), unit: "", value, peer: None, target: Target::None }
    }

    /// What it is compared with, measured in the same run.
    pub(crate) fn beside(mut self, peer: impl Into<String>, value: f64) -> Self {
        self.peer = Some((peer.into(), value));
        self
    }

    /// What it should be.
    pub(crate) fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// Whether the target is met; none where there is none.
    pub(crate) fn met(&self) -> Option<bool> {
        let value = match (&self.value, self.target) {
            (_, Target::None) => return None,
            (Err(_), _) => return Some(false),
            (Ok(value), _) => *value,
        };
        let peer = self.peer.as_ref().map(|(_, peer)| *peer);
        match (self.target, peer) {
            (Target::ValueAtMost(most), _) => Some(value <= most),
            (Target::RatioAtMost(most), Some(peer)) => Some(value / peer <= most),
            (Target::RatioAtLeast(least), Some(peer)) => Some(value / peer >= least),
            (Target::MoreByAtMost(most), Some(peer)) => Some(value - peer <= most),
            (_, None) | (Target::None, _) => None,
        }
    }

    fn cells(&self) -> [String; 6] {
        let value = match &self.value {
            Ok(value) => format!("{} {}", number(*value), self.unit),
            Err(_) => "not measured".to_owned(),
        };
        let peer = self
            .peer
            .as_ref()
            .map_or_else(String::new, |(name, peer)| format!("{} {} ({name})", number(*peer), self.unit));
        let ratio = match (&self.value, &self.peer) {
            (Ok(value), Some((_, peer))) if *peer > 0.0 => format!("{:.2}x", value / peer),
            _ => String::new(),
        };
        let target = match self.target {
            Target::ValueAtMost(most) => format!("<= {} {}", number(most), self.unit),
            Target::RatioAtMost(most) => format!("<= {most:.2}x"),
            Target::RatioAtLeast(least) => format!(">= {least:.2}x"),
            Target::MoreByAtMost(most) => format!("<= +{} {}", number(most), self.unit),
            Target::None => String::new(),
        };
        let met = self.met().map_or("", |met| if met { "yes" } else { "NO" });
        [self.what.clone(), value, peer, ratio, target, met.to_owned()]
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// All lines, as a table that also reads well as Markdown.
pub(crate) fn render(lines: &[Line]) -> String {
    let head = ["what", "value", "floor or peer", "ratio", "target", "met"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(lines.iter().map(Line::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for (place, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if place == 0 {
            text += &format!("|{}|\n", widths.map(|width| "-".repeat(width + 2)).join("|"));
        }
    }
    for line in lines {
        if let Err(why) = &line.value {
            text += &format!("not measured: {}: {why}\n", line.what);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_its_target_is_met() {
        let lines = [
            Line::new("memory", 60.0, "KiB").target(Target::ValueAtMost(64.0)),
            Line::new("creates", 400.0, "/s").beside("store", 1000.0).target(Target::RatioAtLeast(0.5)),
            Line::new("boot", 250.0, "ms").beside("virsh", 100.0).target(Target::MoreByAtMost(300.0)),
            Line::new("load", 0.5, ""),
            Line::missing("host", "no namespaces").target(Target::ValueAtMost(1.0)),
        ];
        expect_test::expect![[r#"
            | what    | value        | floor or peer   | ratio | target       | met |
            |---------|--------------|-----------------|-------|--------------|-----|
            | memory  | 60.00 KiB    |                 |       | <= 64.00 KiB | yes |
            | creates | 400 /s       | 1000 /s (store) | 0.40x | >= 0.50x     | NO  |
            | boot    | 250 ms       | 100 ms (virsh)  | 2.50x | <= +300 ms   | yes |
            | load    | 0.50         |                 |       |              |     |
            | host    | not measured |                 |       | <= 1.00      | NO  |
            not measured: host: no namespaces
        "#]]
        .assert_eq(&render(&lines));
    }
}
