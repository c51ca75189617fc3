//! Traffic and errors of the host's interfaces. The ends of guests' cables are the VPSs' own figures, not the host's.

use chom_protocol::sample::{Metric, Point};

use super::{CollectError, LABELS_MAX, Source, float, is_label, number, point};

/// The loop, and what comes and goes with guests and containers.
const SKIPPED: [&str; 6] = ["lo", "vnet", "tap", "veth", "ifb", "dummy"];

#[derive(Debug)]
pub(crate) struct Network {
    source: Source,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { source: Source::new("/proc/self/net/dev") }
    }

    pub(crate) fn collect(&mut self, points: &mut Vec<Point>) -> Result<(), CollectError> {
        for traffic in self.source.parse(parse)?.into_iter().take(LABELS_MAX) {
            let Traffic { interface, received, receive_errors, sent, send_errors } = traffic;
            for (metric, value) in [
                (Metric::NetworkReceivedBytes, received),
                (Metric::NetworkReceiveErrors, receive_errors),
                (Metric::NetworkSentBytes, sent),
                (Metric::NetworkSendErrors, send_errors),
            ] {
                points.push(point(metric, &interface, float(value)));
            }
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Traffic {
    interface: String,
    received: u64,
    receive_errors: u64,
    sent: u64,
    send_errors: u64,
}

fn parse(text: &str) -> Result<Vec<Traffic>, String> {
    let mut out = Vec::new();
    // Two lines of headings; then `name: 8 columns received 8 columns sent` (proc_pid_net(5)).
    for line in text.lines().skip(2) {
        let (name, rest) = line.rsplit_once(':').ok_or("a line has no interface")?;
        let interface = name.trim();
        if is_skipped(interface) || !is_label(interface) {
            continue;
        }
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |at: usize, what| number(words.get(at).copied(), what);
        out.push(Traffic {
            interface: interface.to_owned(),
            received: field(0, "bytes received")?,
            receive_errors: field(2, "receive errors")?,
            sent: field(8, "bytes sent")?,
            send_errors: field(10, "send errors")?,
        });
    }
    Ok(out)
}

/// A skipped name is one of the list, or begins with it and goes on with digits.
fn is_skipped(interface: &str) -> bool {
    SKIPPED.iter().any(|name| {
        interface.strip_prefix(name).is_some_and(|rest| {
            rest.bytes().all(|byte| byte.is_ascii_digit()) || (*name == "veth" || *name == "tap")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADINGS: &str = "Inter-|   Receive    |  Transmit\n face |bytes packets|bytes packets\n";

    #[test]
    fn the_hosts_own_interfaces_are_told() {
        let text = format!(
            "{HEADINGS}    lo:  681174    5457    0    0    0     0          0         0   681174    5457    0    0    0     0       0          0\n\
             \x20 eth0: 804378376   21441    3    0    0     0          0         0  1053723   11600    4    0    0     0       0          0\n\
             \x20vnet3:       1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n vethab12: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n"
        );
        assert_eq!(
            parse(&text).unwrap(),
            [Traffic {
                interface: "eth0".to_owned(),
                received: 804_378_376,
                receive_errors: 3,
                sent: 1_053_723,
                send_errors: 4
            }]
        );
        for bad in ["eth0\n", "eth0: 1 2\n", "eth0: x 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n"] {
            assert!(parse(&format!("{HEADINGS}{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn cables_of_guests_are_skipped_and_names_that_only_look_so_are_not() {
        for (name, skipped) in
            [("lo", true), ("vnet12", true), ("vethx1", true), ("tap0abc", true), ("ifb0", true)]
                .into_iter()
                .chain([
                    ("lon0", false),
                    ("eth0", false),
                    ("vnetwork", false),
                    ("chom0", false),
                    ("eth0:1", false),
                ])
        {
            assert_eq!(is_skipped(name), skipped, "{name}");
        }
    }
}
