//! Keys of the store: text paths below `/chom/v1/`, and the folders they stand in. Pure; says nothing about what is stored there.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chom_protocol::vps::Sha256;
use chom_protocol::{
    AlertId, BootId, EnrolmentId, HostId, InstanceId, JobId, Name, NotificationId, OperationId, SnapshotId,
    TokenId, UserId, VpsId, WebhookId,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What every key begins with: product and layout version.
pub const ROOT: &str = "/chom/v1/";

/// The folder of all keys: list or watch it to have everything.
pub const EVERYTHING: Prefix = Prefix::folder(ROOT);

/// Longest key. The longest of ours (folder, tenant, name) is about 150 bytes; etcd has no limit of its own.
pub const KEY_BYTES_MAX: usize = 512;

/// Longest folder named in the code, so that folder and three parts always make a legal key.
pub const FOLDER_BYTES_MAX: usize = 128;

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Outside the store's root.
    #[error("the key `{key}` does not begin with `{ROOT}`")]
    Root {
        /// What was given.
        key: String,
    },
    /// Too long.
    #[error("a key of {bytes} bytes beginning `{key}…`; at most {KEY_BYTES_MAX} are allowed")]
    Long {
        /// Its first characters.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// An empty, `.` or `..` part, or a character that no part may have.
    #[error(
        "the key `{key}` has the part `{part}`; parts are letters, digits and `- _ . : @ + =`, and neither empty nor dots only"
    )]
    Part {
        /// What was given.
        key: String,
        /// The part at fault.
        part: String,
    },
}

/// Where a row stands: `/chom/v1/…`, cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// Checks a text and makes it a key. Keys made of ids and names come easier from [`Prefix::row`].
    ///
    /// # Errors
    /// When the text is outside [`ROOT`], too long, or has an illegal part.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::Long { key: text.chars().take(64).collect(), bytes: text.len() });
        }
        let Some(rest) = text.strip_prefix(ROOT) else {
            return Err(KeyError::Root { key: text.to_owned() });
        };
        match rest.split('/').find(|part| !is_part(part.as_bytes())) {
            Some(part) => Err(KeyError::Part { key: text.to_owned(), part: part.to_owned() }),
            None => Ok(Self(text.into())),
        }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands behind the folder, if the key is in it: `host/7` of `/chom/v1/x/host/7` in `/chom/v1/x/`.
    #[must_use]
    pub fn below(&self, folder: &Prefix) -> Option<&str> {
        self.0.strip_prefix(folder.as_str())
    }
}

/// A folder of keys: ends with a slash, so that it never cuts a name (`host/1` is not in `host/10/`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Cow<'static, str>);

impl Prefix {
    /// A folder named in the code, checked when compiled:
    /// `const VPS: Prefix = Prefix::folder("/chom/v1/vps/");`
    #[must_use]
    pub const fn folder(text: &'static str) -> Self {
        let (bytes, root) = (text.as_bytes(), ROOT.as_bytes());
        assert!(bytes.len() <= FOLDER_BYTES_MAX, "the folder is too long");
        assert!(bytes.len() >= root.len() && bytes[bytes.len() - 1] == b'/', "a folder ends with a slash");
        let mut at = 0;
        while at < bytes.len() {
            assert!(at >= root.len() || bytes[at] == root[at], "a folder is below the root");
            assert!(bytes[at] == b'/' || is_part_byte(bytes[at]), "a character that no key may have");
            assert!(at == 0 || bytes[at] != b'/' || bytes[at - 1] != b'/', "an empty part");
            at += 1;
        }
        Self(Cow::Borrowed(text))
    }

    /// The key of one row in this folder.
    #[must_use]
    pub fn row(&self, part: &impl KeyPart) -> Key {
        Key(format!("{}{}", self.0, part.key_part()).into())
    }

    /// A folder in this folder.
    #[must_use]
    pub fn within(&self, part: &impl KeyPart) -> Self {
        Self(Cow::Owned(format!("{}{}/", self.0, part.key_part())))
    }

    /// The folder as text, with its slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the key stands in this folder, at any depth.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(self.as_str())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What may be part of a key without a check: ids, names and numbers, whose texts are always legal parts.
pub trait KeyPart: sealed::Sealed {
    /// The part as text. Numbers are padded, so that they sort.
    fn key_part(&self) -> String;
}

macro_rules! parts {
    ($($kind:ty),*) => {$(
        impl sealed::Sealed for $kind {}
        impl KeyPart for $kind {
            fn key_part(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
parts!(
    AlertId,
    BootId,
    EnrolmentId,
    HostId,
    InstanceId,
    JobId,
    NotificationId,
    OperationId,
    SnapshotId,
    TokenId,
    UserId,
    VpsId,
    WebhookId,
    Name,
    Sha256
);

impl sealed::Sealed for u64 {}
impl KeyPart for u64 {
    fn key_part(&self) -> String {
        format!("{self:020}")
    }
}

impl sealed::Sealed for IpNet {}
/// Hexadecimal, so that prefixes sort as numbers do: `4-0a9b000a-32`.
impl KeyPart for IpNet {
    fn key_part(&self) -> String {
        let length = self.prefix_len();
        match self {
            Self::V4(net) => format!("4-{:08x}-{length:03}", u32::from(net.addr())),
            Self::V6(net) => format!("6-{:032x}-{length:03}", u128::from(net.addr())),
        }
    }
}

/// A fixed part of a key, checked when compiled: `const META: Part = Part::named("meta");`
#[derive(Debug, Clone, Copy)]
pub struct Part(&'static str);

impl Part {
    /// Names a part; meant for constants.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes[0] != b'.' && bytes.len() <= FOLDER_BYTES_MAX, "no part of a key");
        let mut at = 0;
        while at < bytes.len() {
            assert!(is_part_byte(bytes[at]), "a character that no key may have");
            at += 1;
        }
        Self(name)
    }
}

impl sealed::Sealed for Part {}
impl KeyPart for Part {
    fn key_part(&self) -> String {
        self.0.to_owned()
    }
}

const fn is_part_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'@' | b'+' | b'=')
}

fn is_part(part: &[u8]) -> bool {
    part.iter().all(|&byte| is_part_byte(byte)) && part.iter().any(|&byte| byte != b'.')
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::new(&text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VPS: Prefix = Prefix::folder("/chom/v1/vps/");

    #[test]
    fn keys_are_paths_below_the_root() {
        for good in
            ["/chom/v1/meta", "/chom/v1/vps/default/web-1", "/chom/v1/address/fd00::1", "/chom/v1/a.b"]
        {
            assert_eq!(Key::new(good).map(String::from), Ok(good.to_owned()));
        }
        let long = format!("{ROOT}{}", "a".repeat(KEY_BYTES_MAX));
        for bad in [
            "",
            "/",
            "/chom/v1",
            "/chom/v1/",
            "/chom/v2/x",
            "/chom/v1/a//b",
            "/chom/v1/a/",
            "/chom/v1/../x",
            &long,
        ] {
            assert!(Key::new(bad).is_err(), "{bad}");
        }
        for bad in ["a b", "a\n", "ä", "a%2f", "\0"] {
            let error = Key::new(&format!("{ROOT}{bad}")).unwrap_err();
            assert!(matches!(error, KeyError::Part { .. }), "{error}");
        }
    }

    #[test]
    fn a_folder_never_cuts_a_name() {
        let name: Name = "a".parse().unwrap();
        let folder = VPS.within(&name);
        assert_eq!(folder.as_str(), "/chom/v1/vps/a/");
        assert!(folder.contains(&"/chom/v1/vps/a/b".parse().unwrap()));
        assert!(!folder.contains(&"/chom/v1/vps/ab".parse().unwrap()));
        assert_eq!("/chom/v1/vps/a/b".parse::<Key>().unwrap().below(&VPS), Some("a/b"));
    }

    #[test]
    fn numbers_in_keys_sort_as_numbers() {
        assert!(VPS.row(&9_u64) < VPS.row(&10_u64));
        assert!(Key::new(VPS.row(&u64::MAX).as_str()).is_ok());
    }
}
