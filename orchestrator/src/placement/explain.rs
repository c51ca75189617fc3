//! Placement in words: which host was taken and why, and why each other one was not. Pure: the same rules as `place`, said
//! for one request at a time.

use chom_protocol::HostId;

use super::{Candidate, Wish, refusal, score};

/// Hosts that are listed beside the one that was taken: more than anybody reads, and an answer of some 10 KiB.
pub const HOSTS_EXPLAINED_MAX: usize = 100;

/// Where a request goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The host that takes it, if one does, and why it.
    pub taken: Option<(HostId, String)>,
    /// The others and why not; those that came close first.
    pub not_taken: Vec<(HostId, String)>,
    /// How many others there are.
    pub not_taken_count: usize,
}

/// Says where a wish goes.
#[must_use]
pub fn explain(wish: &Wish, candidates: &[Candidate]) -> Explanation {
    let mut fitting: Vec<_> =
        candidates.iter().filter_map(|one| Some((score(wish, one).ok()?, one))).collect();
    fitting.sort_unstable_by_key(|fit| std::cmp::Reverse(fit.0));
    let taken = fitting.first().map(|(_, best)| {
        let why = match fitting.get(1) {
            None => format!("the only host that can take it; then it has {}", left(wish, best)),
            Some((_, next)) => {
                format!(
                    "VPSs are spread: then it has {}, the next best {}",
                    left(wish, best),
                    left(wish, next)
                )
            }
        };
        (best.host, why)
    });
    let others = fitting.iter().skip(1);
    let others = others.map(|(_, one)| (one.host, format!("could take it; then it had {}", left(wish, one))));
    let refused = candidates.iter().filter_map(|one| Some((one.host, refusal(wish, one)?.to_string())));
    Explanation {
        not_taken: others.chain(refused).take(HOSTS_EXPLAINED_MAX).collect(),
        not_taken_count: candidates.len() - usize::from(taken.is_some()),
        taken,
    }
}

/// What hosts are compared by, once one took the VPS.
fn left(wish: &Wish, candidate: &Candidate) -> String {
    let free = candidate.memory_free.0.saturating_sub(wish.memory.0);
    let percent = free.saturating_mul(100) / candidate.memory.0.max(1);
    format!("{percent} % of its memory free and {} VPSs", candidate.count.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use chom_protocol::Bytes;
    use expect_test::{Expect, expect};

    use super::super::tests::{candidate, wish};
    use super::*;

    fn check(candidates: &[Candidate], expected: Expect) {
        let short = |host: &HostId| host.to_string().trim_start_matches(['0', '-']).to_owned();
        let Explanation { taken, not_taken, not_taken_count } = explain(&wish(), candidates);
        let mut text =
            taken.map_or("nobody\n".to_owned(), |(host, why)| format!("{}: {why}\n", short(&host)));
        for (host, why) in &not_taken {
            text += &format!("  not {}: {why}\n", short(host));
        }
        assert_eq!(text.lines().count() - 1, not_taken_count.min(HOSTS_EXPLAINED_MAX));
        expected.assert_eq(&text);
    }

    #[test]
    fn the_host_that_is_taken_says_what_was_better_about_it() {
        let fuller = Candidate { memory_free: Bytes::gib(4), ..candidate(1) };
        check(
            &[fuller, candidate(2)],
            expect![[r#"
                2: VPSs are spread: then it has 43 % of its memory free and 4 VPSs, the next best 18 % of its memory free and 4 VPSs
                  not 1: could take it; then it had 18 % of its memory free and 4 VPSs
            "#]],
        );
    }

    #[test]
    fn each_host_that_is_not_taken_says_by_how_much() {
        check(
            &[
                Candidate { closed: Some("cordoned"), ..candidate(1) },
                Candidate { has_engine: false, ..candidate(2) },
                Candidate { has_labels: false, ..candidate(3) },
                Candidate { has_group: true, ..candidate(4) },
                Candidate { cores_free: 1, ..candidate(5) },
                Candidate { memory_free: Bytes::mib(1), ..candidate(6) },
                Candidate { disk_free: Bytes::gib(9), ..candidate(7) },
                candidate(8),
            ],
            expect![[r#"
                8: the only host that can take it; then it has 43 % of its memory free and 4 VPSs
                  not 1: cordoned
                  not 2: without a working engine for it
                  not 3: without the wanted labels
                  not 4: with a VPS of the same anti-affinity group
                  not 5: with too few cores left: 1, wanted 2
                  not 6: with too little memory left: 1 MiB, wanted 1 GiB
                  not 7: with too little disk left: 9 GiB, wanted 10 GiB
            "#]],
        );
        check(
            &[Candidate { closed: Some("not seen lately"), ..candidate(1) }],
            expect![[r#"
            nobody
              not 1: not seen lately
        "#]],
        );
    }

    #[test]
    fn a_fleet_of_thousands_gives_a_short_answer() {
        let many: Vec<Candidate> = (1..3000).map(candidate).collect();
        let explained = explain(&wish(), &many);
        assert_eq!((explained.not_taken.len(), explained.not_taken_count), (HOSTS_EXPLAINED_MAX, 2998));
        assert_eq!(explained.taken.map(|(host, _)| host), super::super::place(&wish(), many).ok());
    }
}
