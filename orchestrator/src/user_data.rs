//! Whether cloud-init will take a document, asked before a guest boots with it. Pure: a wrong document is refused with its
//! line and the reason; what only cloud-init can judge (templates, scripts, includes) is let through.

use mailparse::{MailHeaderMap as _, ParsedMail};
use serde_norway::Value;

/// What a document may begin with, beside a MIME header.
const STARTS: [&str; 9] = [
    "#cloud-config",
    "#cloud-config-archive",
    "#!",
    "#include",
    "#include-once",
    "#cloud-boothook",
    "#part-handler",
    "## template: jinja",
    "Content-Type: multipart/",
];
/// What a part of a MIME document may be (cloud-init's documentation, "user-data formats").
const PART_TYPES: [&str; 8] = [
    "text/cloud-config",
    "text/cloud-config-archive",
    "text/cloud-boothook",
    "text/jinja2",
    "text/part-handler",
    "text/x-include-url",
    "text/x-include-once-url",
    "text/x-shellscript",
];
/// Parts of a MIME document; more is no user data.
const PARTS_MAX: usize = 64;
/// Keys of a `#cloud-config` document that cloud-init's own modules read.
const KEYS: [&str; 92] = [
    "ansible",
    "apk_repos",
    "apt",
    "apt_pipelining",
    "apt_reboot_if_required",
    "apt_update",
    "apt_upgrade",
    "authkey_hash",
    "autoinstall",
    "bootcmd",
    "byobu_by_default",
    "ca-certs",
    "ca_certs",
    "chef",
    "chpasswd",
    "cloud_config_modules",
    "cloud_final_modules",
    "cloud_init_modules",
    "create_hostname_file",
    "datasource",
    "datasource_list",
    "device_aliases",
    "disable_ec2_metadata",
    "disable_root",
    "disable_root_opts",
    "disk_setup",
    "drivers",
    "fan",
    "final_message",
    "fqdn",
    "fs_setup",
    "groups",
    "growpart",
    "grub-dpkg",
    "grub_dpkg",
    "hostname",
    "keyboard",
    "landscape",
    "launch-index",
    "locale",
    "locale_configfile",
    "lxd",
    "manage_etc_hosts",
    "manage_resolv_conf",
    "mcollective",
    "merge_how",
    "merge_type",
    "migrate",
    "mount_default_fields",
    "mounts",
    "network",
    "no_ssh_fingerprints",
    "ntp",
    "output",
    "package_reboot_if_required",
    "package_update",
    "package_upgrade",
    "packages",
    "password",
    "phone_home",
    "power_state",
    "prefer_fqdn_over_hostname",
    "preserve_hostname",
    "puppet",
    "random_seed",
    "reporting",
    "resize_rootfs",
    "resolv_conf",
    "rh_subscription",
    "rsyslog",
    "runcmd",
    "salt_minion",
    "snap",
    "spacewalk",
    "ssh",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_fp_console_blacklist",
    "ssh_genkeytypes",
    "ssh_import_id",
    "ssh_keys",
    "ssh_publish_hostkeys",
    "ssh_pwauth",
    "ssh_quiet_keygen",
    "swap",
    "system_info",
    "timezone",
    "ubuntu_pro",
    "user",
    "users",
    "write_files",
    "yum_repos",
];
/// Keys whose value is a list and nothing else.
const LISTS: [&str; 4] = ["bootcmd", "runcmd", "ssh_authorized_keys", "write_files"];
/// A key this like to one that is known is taken for a slip: two letters swapped, one wrong, one missing.
const LIKENESS_MIN: f64 = 0.8;

/// What is wrong with a document: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Judges a document.
///
/// # Errors
/// When cloud-init would pass it over, or a part of it.
pub fn check(text: &str) -> Result<(), Mistake> {
    let first = text.lines().next().unwrap_or_default().trim_end();
    if first.eq_ignore_ascii_case("#cloud-config") {
        return check_cloud_config(text, 0);
    }
    let lower = first.to_ascii_lowercase();
    if lower.starts_with("content-type: multipart/") || lower.starts_with("mime-version:") {
        return check_multipart(text);
    }
    if STARTS.iter().skip(1).any(|start| first.starts_with(start)) {
        return Ok(());
    }
    let mut reason = format!(
        "user data must begin with one of: {}; cloud-init passes over anything else",
        STARTS.join(", ")
    );
    if strsim::normalized_levenshtein(&lower, "#cloud-config") >= LIKENESS_MIN {
        reason = format!("`{}` is not `#cloud-config`; cloud-init passes the document over", shown(first));
    }
    Err(Mistake { line: 1, reason })
}

/// A `#cloud-config` document that begins behind so many lines.
fn check_cloud_config(text: &str, lines_before: usize) -> Result<(), Mistake> {
    let value: Value = serde_norway::from_str(text).map_err(|error| {
        let line = lines_before + error.location().map_or(1, |location| location.line());
        Mistake { line, reason: format!("this is no YAML: {error}") }
    })?;
    let mapping = match value {
        // Nothing but comments: nothing to do.
        Value::Null => return Ok(()),
        Value::Mapping(mapping) => mapping,
        _ => {
            let reason = "a `#cloud-config` document is a mapping at its top, such as `packages: [nginx]`";
            return Err(Mistake { line: lines_before + 2, reason: reason.to_owned() });
        }
    };
    for (key, value) in &mapping {
        let Some(key) = key.as_str() else {
            let reason = "a key at the top of the document is no text; quote it".to_owned();
            return Err(Mistake { line: lines_before + 2, reason });
        };
        let mistake = |reason| Err(Mistake { line: lines_before + line_of(text, key), reason });
        if let Some(meant) = misspelt(key) {
            return mistake(format!("cloud-init knows no key `{}`; is `{meant}` meant?", shown(key)));
        }
        if LISTS.contains(&key) && !matches!(value, Value::Sequence(_)) {
            return mistake(format!("`{key}` takes a list: put each item on a line of its own after `- `"));
        }
    }
    Ok(())
}

/// The key that was meant by one that cloud-init does not know. Keys unlike any are left to modules that we do not know.
fn misspelt(key: &str) -> Option<&'static str> {
    if KEYS.contains(&key) {
        return None;
    }
    let same_but_for_dashes = KEYS.iter().find(|known| known.replace('-', "_") == key.replace('-', "_"));
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(known, key);
    let most_like = || KEYS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = same_but_for_dashes.or_else(|| most_like().filter(|known| likeness(known) >= LIKENESS_MIN));
    meant.copied()
}

/// Where a key stands at the top of a document.
fn line_of(text: &str, key: &str) -> usize {
    let begins = |line: &str| {
        let line = line.trim_start_matches(['"', '\'', '{', ' ']);
        line.strip_prefix(key).is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
    };
    text.lines().position(begins).map_or(1, |place| place + 1)
}

fn check_multipart(text: &str) -> Result<(), Mistake> {
    let broken = |reason: String| Mistake { line: 1, reason };
    let mail = mailparse::parse_mail(text.as_bytes())
        .map_err(|error| broken(format!("this is no MIME document: {error}")))?;
    if !mail.ctype.mimetype.starts_with("multipart/") || mail.subparts.is_empty() {
        let reason =
            "a MIME document of user data has `Content-Type: multipart/mixed; boundary=\"…\"` and parts";
        return Err(broken(reason.to_owned()));
    }
    if mail.subparts.len() > PARTS_MAX {
        return Err(broken(format!("{} parts; at most {PARTS_MAX} are taken", mail.subparts.len())));
    }
    mail.subparts.iter().try_for_each(|part| check_part(text, part))
}

fn check_part(text: &str, part: &ParsedMail<'_>) -> Result<(), Mistake> {
    let line = 1 + newlines_before(text, part.raw_bytes);
    let kind = part.ctype.mimetype.as_str();
    let body = part
        .get_body()
        .map_err(|error| Mistake { line, reason: format!("this part cannot be read: {error}") })?;
    match kind {
        "text/cloud-config" => {
            // Encoded parts have lines of their own: then the part's first line has to do.
            let encoded = part.headers.get_first_value("Content-Transfer-Encoding");
            let plain =
                encoded.is_none_or(|how| matches!(how.to_ascii_lowercase().as_str(), "7bit" | "8bit"));
            let head = part.raw_bytes.len().saturating_sub(body.len());
            let head = String::from_utf8_lossy(&part.raw_bytes[..head]).matches('\n').count();
            check_cloud_config(&body, if plain { line - 1 + head } else { line - 1 })
        }
        // What it is stands in its first line, as in a document of one part.
        "text/plain" => check(&body).map_err(|mistake| Mistake { line, ..mistake }),
        _ if PART_TYPES.contains(&kind) => Ok(()),
        _ => {
            let reason = format!(
                "cloud-init takes no part of type `{}`; it takes: {}",
                shown(kind),
                PART_TYPES.join(", ")
            );
            Err(Mistake { line, reason })
        }
    }
}

/// Lines of the whole before a part of it.
fn newlines_before(text: &str, part: &[u8]) -> usize {
    let offset = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
    text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn said(text: &str) -> String {
        check(text).map_or_else(|mistake| mistake.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn what_cloud_init_takes_is_let_through() {
        let mime = "Content-Type: multipart/mixed; boundary=\"b\"\nMIME-Version: 1.0\n\n--b\n\
                    Content-Type: text/cloud-config\n\npackages: [nginx]\n--b\n\
                    Content-Type: text/x-shellscript\n\n#!/bin/sh\necho\n--b--\n";
        let encoded = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/cloud-config\n\
                       Content-Transfer-Encoding: base64\n\ncGFja2FnZXM6IFtuZ2lueF0K\n--b--\n";
        for text in [
            "#cloud-config\n",
            "#cloud-config\r\npackages:\r\n  - nginx\r\n",
            "#cloud-config\nusers:\n  - name: a\nour_own_module: {a: 1}\n",
            "#cloud-config\n{packages: [a], runcmd: [[ls, -l]]}\n",
            "#!/bin/sh\nnot: [yaml\n",
            "#include\nhttps://example.org/a\n",
            "## template: jinja\n#cloud-config\n{% if a %}\n",
            mime,
            encoded,
        ] {
            assert_eq!(said(text), "fine", "{text}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let mime = |part: &str| {
            format!("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n{part}\n--b--\n")
        };
        let all = [
            "".to_owned(),
            "packages: [nginx]\n".to_owned(),
            "#cloud-confg\npackages: [nginx]\n".to_owned(),
            "#cloud-config\n- nginx\n".to_owned(),
            "#cloud-config\npackages:\n  - nginx\n - apache\n".to_owned(),
            "#cloud-config\npackages: [a]\npackages: [b]\n".to_owned(),
            "#cloud-config\nhostname: a\npakages:\n  - nginx\n".to_owned(),
            "#cloud-config\nssh-authorized-keys:\n  - ssh-ed25519 AAAA\n".to_owned(),
            "#cloud-config\n\nruncmd: touch /a\n".to_owned(),
            "#cloud-config\n1: a\n".to_owned(),
            mime("Content-Type: text/cloud-config\n\nhostname: a\nrun_cmd: [ls]"),
            mime("Content-Type: text/html\n\n<b>"),
            "Content-Type: multipart/mixed\n\nhello\n".to_owned(),
        ];
        expect![[r#"
            line 1: user data must begin with one of: #cloud-config, #cloud-config-archive, #!, #include, #include-once, #cloud-boothook, #part-handler, ## template: jinja, Content-Type: multipart/; cloud-init passes over anything else
            line 1: user data must begin with one of: #cloud-config, #cloud-config-archive, #!, #include, #include-once, #cloud-boothook, #part-handler, ## template: jinja, Content-Type: multipart/; cloud-init passes over anything else
            line 1: `#cloud-confg` is not `#cloud-config`; cloud-init passes the document over
            line 2: a `#cloud-config` document is a mapping at its top, such as `packages: [nginx]`
            line 4: this is no YAML: did not find expected key at line 4 column 2, while parsing a block mapping at line 2 column 1
            line 2: this is no YAML: duplicate entry with key "packages" at line 2 column 1
            line 3: cloud-init knows no key `pakages`; is `packages` meant?
            line 2: cloud-init knows no key `ssh-authorized-keys`; is `ssh_authorized_keys` meant?
            line 3: `runcmd` takes a list: put each item on a line of its own after `- `
            line 2: a key at the top of the document is no text; quote it
            line 8: cloud-init knows no key `run_cmd`; is `runcmd` meant?
            line 5: cloud-init takes no part of type `text/html`; it takes: text/cloud-config, text/cloud-config-archive, text/cloud-boothook, text/jinja2, text/part-handler, text/x-include-url, text/x-include-once-url, text/x-shellscript
            line 1: a MIME document of user data has `Content-Type: multipart/mixed; boundary="…"` and parts
        "#]].assert_eq(&all.iter().map(|text| said(text) + "\n").collect::<String>());
    }

    proptest::proptest! {
        #[test]
        fn no_document_makes_it_panic(text: String) {
            let _ = check(&text);
            let _ = check(&format!("#cloud-config\n{text}"));
            let _ = check(&format!("Content-Type: multipart/mixed; boundary=b\n\n--b\n{text}\n--b--"));
        }
    }
}
