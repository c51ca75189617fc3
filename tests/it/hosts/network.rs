//! What goes over guests' cards on a real host: nothing under a neighbour's addresses, what the firewall and the rate let
//! through, and every byte of it counted once. Watched by rules of the test's own in nft(8), beside CHOM's.

use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::api::networks::VpsNetworkView;
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::network::port_name;
use chom_protocol::vps::Engine;
use chom_tests::fleet::SOON;
use chom_tests::hosts::{RealHost, Site, SiteOptions, guest_name};
use chom_tests::wait::wait_for;
use serde_json::{Value, json};

const GATEWAY: &str = "10.155.0.1";
/// A guest says what it was told to within this time; it is translated, and may be asked while another one boots.
const SAID: Duration = Duration::from_secs(90);
/// What the host's own end of a card sends to the guest by itself when it comes up (IPv6 neighbour discovery and multicast
/// listening): on the link, and none of the guest's traffic.
const OWN_END_BYTES_MAX: u64 = 4096;
/// 1,024 bytes.
const KIBIBYTE: u64 = 1024;

/// A guest that does what it is told: a machine over its console, a container by `incus exec`.
struct Guest<'s> {
    site: &'s Site,
    engine: Engine,
    vps: VpsId,
    address: String,
    mac: String,
}

impl<'s> Guest<'s> {
    fn create(site: &'s Site, engine: Engine, name: &str) -> VpsAccepted {
        let user_data = "#cloud-config\n#chom-hello: shell\n";
        let body = json!({
            "name": name, "region": "us-east", "size": "small", "user_data": user_data, "engine": engine,
        });
        site.api().post("/api/vps-servers", &body).unwrap_or_else(|failure| panic!("{failure}"))
    }

    fn greeted(site: &'s Site, engine: Engine, accepted: &VpsAccepted) -> Self {
        site.done(accepted);
        let vps = accepted.vps.id;
        let card: VpsNetworkView = site.api().get(&format!("/api/vps-servers/{vps}/network")).unwrap();
        let guest = Self { site, engine, vps, address: card.addresses[0].addr().to_string(), mac: card.mac };
        guest.boots(1);
        guest
    }

    /// Waits until it greeted from a boot of it and takes orders.
    fn boots(&self, boot: u32) {
        match self.engine {
            Engine::Incus => drop(self.host().container_greets(self.vps, boot)),
            _ => {
                self.host().greets(self.vps, boot);
                self.listen();
            }
        }
    }

    /// Holds its console open from now on. QEMU looks once a second whether somebody does, and takes no word before.
    fn listen(&self) {
        self.host().sh(&format!("setsid cat {} >/dev/null 2>&1 </dev/null & sleep 3", self.console()));
    }

    /// The host's end of its console.
    fn console(&self) -> String {
        let tty = self.host().sh(&format!("virsh -q -c qemu:///system ttyconsole {}", guest_name(self.vps)));
        tty.trim().to_owned()
    }

    fn host(&self) -> &RealHost {
        &self.site.host
    }

    fn port(&self) -> String {
        port_name(self.vps)
    }

    /// Has it run a line, and gives what it then printed.
    fn run(&self, line: &str) -> String {
        if self.engine == Engine::Incus {
            return self
                .host()
                .try_sh(&format!("incus exec {} -- sh -c '{line}'", guest_name(self.vps)))
                .stdout;
        }
        let before = self.host().console(self.vps).len();
        // The end mark is computed by the guest: a console that echoes what was typed would not show it.
        self.host().sh(&format!("echo '{line}; echo said-$((40 + 2))' >{}", self.console()));
        wait_for(&format!("the guest to have run `{line}`"), SAID, || {
            let console = self.host().console(self.vps);
            let said = console.get(before..).unwrap_or_default();
            if said.contains("said-42") { Ok(said.to_owned()) } else { Err(said.to_owned()) }
        })
    }

    /// Whether it gets an answer to a ping.
    fn reaches(&self, address: &str, options: &str) -> bool {
        self.run(&format!("ping -c 3 -W 2 {options} {address}")).contains(" 0% packet loss")
    }

    fn change(&self, body: &Value) {
        let path = format!("/api/vps-servers/{}/network", self.vps);
        let accepted: VpsAccepted =
            self.site.api().overwrite(&path, body).unwrap_or_else(|failure| panic!("{failure}"));
        self.site.done(&accepted);
    }

    /// Bytes to and from it, as `ip -s link` counts them.
    fn link(&self) -> (u64, u64) {
        let port = self.port();
        let read = self.host().sh(&format!("cd /sys/class/net/{port}/statistics && cat tx_bytes rx_bytes"));
        let numbers: Vec<u64> = read.split_whitespace().map(|number| number.parse().unwrap()).collect();
        (numbers[0], numbers[1])
    }

    /// Bytes to and from it, as the agent says.
    fn counted(&self) -> Result<(u64, u64), String> {
        let status = self.host().agent_status().ok_or("no agent")?;
        let traffic = &status["status"]["vps"][self.vps.to_string()]["traffic"];
        let number = |name: &str| traffic[name].as_u64().ok_or_else(|| traffic.to_string());
        Ok((number("in_bytes")?, number("out_bytes")?))
    }

    /// Waits until the agent has counted what the link of this run shows; gives all it counted.
    fn is_counted(&self) -> (u64, u64) {
        wait_for("the agent to have counted what the link shows", SOON, || {
            let (counted, link) = (self.counted()?, self.link());
            if counted.1 == link.1 && (counted.0..counted.0 + OWN_END_BYTES_MAX).contains(&link.0) {
                Ok(counted)
            } else {
                Err(format!("counted {counted:?}, link {link:?}"))
            }
        })
    }
}

/// Counts what of a guest's frames passed under addresses that are not its own; and all that passed.
fn watch(host: &RealHost, guest: &Guest<'_>) {
    let (port, mac, address) = (guest.port(), &guest.mac, &guest.address);
    host.sh(&format!(
        "nft -f - <<'RULES'
add table bridge watch
delete table bridge watch
table bridge watch {{
counter forged {{
}}
counter passed {{
}}
chain seen {{
type filter hook prerouting priority 0
iifname != \"{port}\" accept
counter name passed
ether saddr != {mac} counter name forged accept
arp saddr ip != {{ 0.0.0.0, {address} }} counter name forged accept
ip saddr != {address} counter name forged accept
ip6 saddr 2001:db8::/32 counter name forged
icmpv6 type nd-neighbor-advert @th,64,32 0x20010db8 counter name forged
}}
}}
RULES"
    ));
}

/// Packets and bytes of a counter of the watch.
fn watched(host: &RealHost, counter: &str) -> (u64, u64) {
    let shown = host.sh(&format!("nft list counter bridge watch {counter}"));
    let word = |name: &str| -> u64 {
        let mut words = shown.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).unwrap().parse().unwrap()
    };
    (word("packets"), word("bytes"))
}

/// Has a guest send with its neighbour's addresses: IPv4, IPv6 and its hardware address.
fn forge(attacker: &Guest<'_>, neighbour: &Guest<'_>) {
    let Guest { address, mac, .. } = neighbour;
    attacker.run(&format!(
        "ip address add {address}/32 dev eth0; ping -c 2 -W 1 -I {address} {GATEWAY}; ip address del {address}/32 dev eth0"
    ));
    attacker.run(
        "ip -6 address add 2001:db8::7/64 dev eth0; sleep 2; ping6 -c 2 -W 1 -I 2001:db8::7 ff02::1; ip -6 address del 2001:db8::7/64 dev eth0",
    );
    let own = &attacker.mac;
    attacker.run(&format!(
        "ip link set eth0 address {mac}; ping -c 2 -W 1 {GATEWAY}; ip link set eth0 address {own}"
    ));
}

#[test]
fn machines_send_only_as_themselves_what_the_firewall_and_the_rate_let_through_and_all_of_it_is_counted_once()
{
    guarded(Engine::Libvirt, "net");
}

#[test]
fn containers_send_only_as_themselves_what_the_firewall_and_the_rate_let_through_and_all_of_it_is_counted_once()
 {
    guarded(Engine::Incus, "netc");
}

fn guarded(engine: Engine, name: &str) {
    let containers = engine == Engine::Incus;
    let site = Site::start(name, &SiteOptions { containers, ..SiteOptions::default() });
    let host = &site.host;
    let accepted = ["one", "two"].map(|name| Guest::create(&site, engine, name));
    let [one, two] = accepted.map(|accepted| Guest::greeted(&site, engine, &accepted));
    assert!(host.sh("ip -br link").contains(&one.port()));

    assert!(one.reaches(GATEWAY, "") && one.reaches(&two.address, ""), "its own traffic passes");
    watch(host, &one);
    forge(&one, &two);
    assert_eq!(watched(host, "forged"), (0, 0), "nothing forged gets through");
    assert!(one.reaches(&two.address, ""), "its own traffic still passes");
    assert!(watched(host, "passed").0 > 0);

    // The same without the guard: the attack is a real one.
    one.change(&json!({"spoof_guard": false}));
    forge(&one, &two);
    assert!(watched(host, "forged").0 >= 5, "{:?}", watched(host, "forged"));
    one.change(&json!({"spoof_guard": true}));
    watch(host, &one);
    forge(&one, &two);
    assert_eq!(watched(host, "forged"), (0, 0));

    counted_through_restarts(&one);
    flushed_rules_come_back(&one, &two);
    a_firewall_blocks_and_lets_through(&one);
    a_rate_drops_what_is_beyond(&one);
}

/// The API's figure follows the agent's, and the agent's what the link showed.
fn counted_through_restarts(one: &Guest<'_>) {
    let first = one.is_counted();
    one.host().sh("systemctl restart chom-agent");
    one.run(&format!("ping -c 20 -i 0.1 -s 1000 {GATEWAY}"));
    let second = one.is_counted();
    assert!(
        second.0 >= first.0 + 20 * KIBIBYTE && second.1 >= first.1 + 20 * KIBIBYTE,
        "{first:?} {second:?}"
    );

    // The guest was off, and its card is another one: the link counts from nothing, the total goes on.
    one.site.act(one.vps, "restart");
    one.boots(2);
    one.run(&format!("ping -c 20 -i 0.1 -s 1000 {GATEWAY}"));
    let now = wait_for("the agent to have counted the guest's second run", SOON, || {
        let (now, link) = (one.counted()?, one.link());
        // What went in the guest's last moment, after the last look at the link, is counted too.
        let late = now.1.checked_sub(second.1 + link.1).is_some_and(|late| late < 4 * KIBIBYTE);
        if late && (now.0 - second.0).abs_diff(link.0) < OWN_END_BYTES_MAX {
            Ok(now)
        } else {
            Err(format!("counted {now:?}, link {link:?}, before {second:?}"))
        }
    });
    wait_for("the API to show what the agent counted", SOON, || {
        let card: VpsNetworkView = one
            .site
            .api()
            .get(&format!("/api/vps-servers/{}/network", one.vps))
            .map_err(|e| e.to_string())?;
        let total: u64 = card.months.iter().map(|month| month.traffic.total()).sum();
        if total >= now.0 + now.1 { Ok(()) } else { Err(format!("{total} of {now:?}")) }
    });
}

fn flushed_rules_come_back(one: &Guest<'_>, two: &Guest<'_>) {
    let host = one.host();
    // Sorted: what is made anew is listed in another order.
    const LISTED: &str = "nft -s -t list table bridge chom | sort";
    let before = host.sh(LISTED);
    for harm in ["nft flush ruleset", "nft flush table bridge chom", "nft delete table bridge chom"] {
        host.sh(harm);
        wait_for(&format!("the rules to be back after `{harm}`"), SOON, || {
            let now = host.try_sh(LISTED).stdout;
            if now == before { Ok(()) } else { Err(now) }
        });
    }
    watch(host, one);
    forge(one, two);
    assert_eq!(watched(host, "forged"), (0, 0));
    assert!(one.reaches(&two.address, ""));
}

fn a_firewall_blocks_and_lets_through(one: &Guest<'_>) {
    let (host, address) = (one.host(), &one.address);
    // Started in the background, so that the line has an end.
    for port in [7777, 7778] {
        one.run(&format!("(while :; do nc -l -p {port} </dev/null; done) >/dev/null 2>&1 & true"));
    }
    let opens =
        |port: u16| host.try_sh(&format!("timeout 20 bash -c '</dev/tcp/{address}/{port}'")).code == Some(0);
    let shut =
        |port: u16| host.try_sh(&format!("timeout 4 bash -c '</dev/tcp/{address}/{port}'")).code != Some(0);
    let pinged = || host.try_sh(&format!("ping -c 2 -W 2 {address}")).code == Some(0);
    assert!(opens(7777) && opens(7778) && pinged(), "open at first");
    let rule = json!({"direction": "in", "protocol": "tcp", "ports": ["7777"], "peer": "10.155.0.0/20", "action": "accept"});
    one.change(&json!({"firewall": {"default_in": "drop", "default_out": "accept", "rules": [rule]}}));
    assert!(opens(7777), "what a rule lets through passes");
    assert!(shut(7778) && !pinged(), "the rest does not");
    assert!(one.reaches(GATEWAY, ""), "answers to its own questions come in");
    let out = json!({"direction": "out", "protocol": "icmp", "action": "drop"});
    one.change(&json!({"firewall": {"default_in": "accept", "default_out": "accept", "rules": [out]}}));
    assert!(!one.reaches(GATEWAY, "") && opens(7778));
    one.change(&json!({"firewall": {"default_in": "accept", "default_out": "accept", "rules": []}}));
    assert!(one.reaches(GATEWAY, ""));
}

fn a_rate_drops_what_is_beyond(one: &Guest<'_>) {
    let host = one.host();
    one.change(&json!({"rate": {"in_bits": null, "out_bits": 64_000}}));
    watch(host, one);
    let (_, sent_before) = one.link();
    one.run(&format!("ping -q -c 60 -i 0.02 -s 20000 {GATEWAY}"));
    let sent = one.link().1 - sent_before;
    let (_, passed) = watched(host, "passed");
    assert!(sent > 1024 * KIBIBYTE && passed < sent / 2, "{sent} bytes sent, {passed} passed");
}
