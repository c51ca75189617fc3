//! The name of this machine for EHLO, fully qualified where that can be found without asking a network. `localhost` is no
//! name: servers refuse it.

use std::path::Path;

/// The machine's own name; none when it has none that means anything elsewhere.
pub(super) fn own_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let hosts = std::fs::read_to_string(Path::new("/etc/hosts")).unwrap_or_default();
    qualify(&name, &hosts)
}

/// hosts(5): `address canonical-name aliases…`; Debian writes the qualified name of the machine there.
fn qualify(name: &str, hosts: &str) -> Option<String> {
    let legal = |name: &&str| {
        !name.is_empty()
            && !name.starts_with("localhost")
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
    };
    let name = Some(name).filter(legal)?;
    if name.contains('.') {
        return Some(name.to_owned());
    }
    let mut qualified = hosts.lines().filter_map(|line| {
        let names: Vec<&str> = line.split('#').next()?.split_whitespace().skip(1).collect();
        let prefix = format!("{name}.");
        names.contains(&name).then(|| names.iter().find(|other| other.starts_with(&prefix)).copied())?
    });
    let qualified = qualified.find(legal);
    Some(qualified.unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_qualified_from_hosts_and_never_localhost() {
        let hosts =
            "127.0.0.1 localhost\n127.0.1.1 box.example.com box # me\n10.0.0.1 other.example.com other\n";
        for (name, expected) in [
            ("box", Some("box.example.com")),
            ("a.example.org", Some("a.example.org")),
            ("unlisted", Some("unlisted")),
            ("localhost", None),
            ("localhost.localdomain", None),
            ("", None),
            ("bad name", None),
        ] {
            assert_eq!(qualify(name, hosts).as_deref(), expected, "{name}");
        }
    }
}
