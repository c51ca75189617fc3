//! What nft(8) says is loaded: parsed. Pure.

use std::collections::BTreeMap;

use chom_protocol::VpsId;
use chom_protocol::network::Traffic;
use chom_protocol::vps::Sha256;

use super::rules::{self, FROM_GUESTS, TABLE};

/// `ip -s link` counts a frame's Ethernet header, the rules of a bridge do not.
const HEADER_BYTES: u64 = 14;

/// The table as it is in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Digest of its text without what counts.
    pub(super) digest: Option<Sha256>,
    /// Digest of the one chain that everything from guests comes through; it alone is looked at between listings.
    pub(super) glance: Option<Sha256>,
    /// Chains, sets and counters by kind and name.
    objects: Vec<(String, String)>,
    counters: BTreeMap<String, u64>,
}

impl Loaded {
    /// From the text of `nft -t list table`, or of `nft list chain`.
    pub(super) fn parse(text: &str) -> Self {
        let mut loaded = Self::default();
        let mut still = String::with_capacity(text.len());
        let (mut counter, mut glanced, mut is_glanced) = (None, String::new(), false);
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match (words.as_slice(), &counter) {
                (["packets", packets, "bytes", bytes], Some(name)) => {
                    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
                    let bytes = number(bytes).saturating_add(HEADER_BYTES * number(packets));
                    loaded.counters.insert(String::clone(name), bytes);
                    continue;
                }
                ([kind @ ("chain" | "set" | "counter"), name, "{"], _) => {
                    counter = (*kind == "counter").then(|| (*name).to_owned());
                    loaded.objects.push(((*kind).to_owned(), (*name).to_owned()));
                    is_glanced = *kind == "chain" && *name == FROM_GUESTS;
                }
                _ => {}
            }
            still.push_str(line);
            still.push('\n');
            if is_glanced {
                glanced.push_str(line.trim());
                glanced.push('\n');
                is_glanced = line.trim() != "}";
            }
        }
        loaded.digest = Some(Sha256::of(still.as_bytes()));
        loaded.glance = (!glanced.is_empty()).then(|| Sha256::of(glanced.as_bytes()));
        loaded
    }

    /// What a card's counters show; none where one of them is missing.
    pub(super) fn counted(&self, vps: VpsId) -> Option<Traffic> {
        let suffix = rules::suffix(vps);
        let of = |direction: &str| self.counters.get(&format!("{direction}-{suffix}")).copied();
        Some(Traffic { in_bytes: of("in")?, out_bytes: of("out")? })
    }

    /// One transaction that puts `rules` in place of what is loaded. Counters that stay keep their values.
    pub(super) fn replaced_by(&self, rules: &str) -> String {
        let mut text = format!("add table {TABLE}\nflush table {TABLE}\n");
        for (kind, name) in &self.objects {
            if !rules.contains(&format!("{kind} {name} {{")) {
                text.push_str(&format!("delete {kind} {TABLE} {name}\n"));
            }
        }
        text.push_str(rules);
        text
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const LISTED: &str = "table bridge chom {
\tcounter out-1f2a3b4c5d6e {
\t\tpackets 10 bytes 1000
\t}

\tcounter in-1f2a3b4c5d6e {
\t\tpackets 1 bytes 46
\t}

\tset answers-in4-1f2a3b4c5d6e {
\t\ttype ipv4_addr . inet_service . inet_service
\t}

\tchain from-1f2a3b4c5d6e {
\t\tcounter name \"out-1f2a3b4c5d6e\"
\t}
}
";

    #[test]
    fn counters_tell_what_the_card_saw_with_its_headers() {
        let vps = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e".parse().unwrap();
        let loaded = Loaded::parse(LISTED);
        assert_eq!(loaded.counted(vps), Some(Traffic { in_bytes: 60, out_bytes: 1140 }));
        let other = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6f".parse().unwrap();
        assert_eq!(loaded.counted(other), None);
    }

    #[test]
    fn what_counts_is_no_drift_and_everything_else_is() {
        let digest = |text: &str| Loaded::parse(text).digest;
        assert_eq!(digest(LISTED), digest(&LISTED.replace("packets 10 bytes 1000", "packets 11 bytes 1100")));
        assert_ne!(digest(LISTED), digest(&LISTED.replace("\t\tcounter name \"out-1f2a3b4c5d6e\"\n", "")));
        assert_ne!(digest(LISTED), None);
    }

    #[test]
    fn the_chain_that_is_glanced_at_reads_the_same_alone_and_in_its_table() {
        let chain = format!("\tchain {FROM_GUESTS} {{\n\t\tiifname vmap @ports\n\t}}\n");
        let table = LISTED.replacen("\tcounter in-", &format!("{chain}\n\tcounter in-"), 1);
        let alone = Loaded::parse(&format!("table bridge chom {{\n{chain}}}\n"));
        assert_eq!(Loaded::parse(&table).glance, alone.glance);
        assert_ne!(alone.glance, None);
        assert_eq!(Loaded::parse(LISTED).glance, None);
        let changed = table.replace("vmap @ports", "accept");
        assert_ne!(Loaded::parse(&changed).glance, alone.glance);
    }

    #[test]
    fn what_nobody_needs_any_more_goes_and_what_stays_keeps_its_counters() {
        let rules = "table bridge chom {\ncounter out-1f2a3b4c5d6e {\n}\n}\n";
        expect![[r#"
            add table bridge chom
            flush table bridge chom
            delete counter bridge chom in-1f2a3b4c5d6e
            delete set bridge chom answers-in4-1f2a3b4c5d6e
            delete chain bridge chom from-1f2a3b4c5d6e
            table bridge chom {
            counter out-1f2a3b4c5d6e {
            }
            }
        "#]]
        .assert_eq(&Loaded::parse(LISTED).replaced_by(rules));
    }
}
