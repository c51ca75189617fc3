//! The single-use token that lets a host enrol, and the decision whether a presented one is good. The orchestrator
//! keeps only the token's hash. Pure but for the randomness of a new token.

use std::fmt;
use std::str::FromStr;

use chom_protocol::{HostId, UnixMillis};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::rand::SecureRandom;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::fingerprint::Fingerprint;

/// What the text of a token begins with, so that a person, and a scanner for leaked secrets, knows one.
pub const TOKEN_PREFIX: &str = "chom-enrol-";

/// Randomness in a token: it cannot be guessed, so its hash needs no salt and no slow hash function.
pub const TOKEN_BYTES: usize = 32;

/// How long a token can be used: time enough to paste one line on the host, short enough for a leaked line to be
/// worthless the same day.
pub const TOKEN_LIFE_SECONDS: u64 = 60 * 60;

/// A secret that lets one host enrol once. `Debug` does not show it.
#[derive(Clone)]
pub struct EnrolmentToken([u8; TOKEN_BYTES]);

/// Why a text is no enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins otherwise.
    #[error(
        "an enrolment token begins with `{TOKEN_PREFIX}`; paste the whole line that `chomctl host add` printed"
    )]
    Prefix,
    /// It was cut, or has something appended, or a wrong character.
    #[error(
        "the enrolment token must have {} hexadecimal digits after `{TOKEN_PREFIX}`, this one has {characters} characters; paste it whole",
        TOKEN_BYTES * 2
    )]
    Digits {
        /// How many characters follow the prefix.
        characters: usize,
    },
}

/// The system gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random number generator failed; nothing secret can be made now")]
pub struct RandomError;

impl EnrolmentToken {
    /// A new random token.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bytes = [0; TOKEN_BYTES];
        ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| RandomError)?;
        Ok(Self(bytes))
    }

    /// What the orchestrator stores instead of the token.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(Fingerprint::of(&self.0))
    }

    /// The token's text, for the one line that an admin pastes and the one message that presents it.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{TOKEN_PREFIX}{}", HEXLOWER.encode(&self.0))
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits = text.strip_prefix(TOKEN_PREFIX).ok_or(TokenError::Prefix)?;
        let bytes =
            HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| TokenError::Digits { characters: digits.chars().count() })
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("EnrolmentToken(secret)")
    }
}

impl Drop for EnrolmentToken {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The SHA-256 of a token: finds the token's row, proves nothing to whoever reads it. Compared in constant time.
#[derive(Debug, Clone, Copy, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(Fingerprint);

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What the orchestrator knows of a token that it gave out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// The token's hash.
    pub hash: TokenHash,
    /// The host that may enrol with it. The host's id comes from here and from nowhere else.
    pub host: HostId,
    /// From this moment on it is worthless.
    pub expires_at: UnixMillis,
    /// The fingerprint of the key that enrolled with it, once one has.
    pub used_by: Option<Fingerprint>,
}

/// Why a host may not enrol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnrolmentRefused {
    /// No such token was given out, or it was withdrawn.
    #[error(
        "this enrolment token is unknown here; print a new line with `chomctl host add` and paste it whole"
    )]
    Unknown,
    /// Another key has enrolled with it.
    #[error(
        "this enrolment token was already used by another machine or key; if that was not you, revoke the host; print a new line with `chomctl host add`"
    )]
    Used,
    /// Its hour is over.
    #[error(
        "this enrolment token has expired, it was good for one hour; print a new line with `chomctl host add`"
    )]
    Expired,
}

/// Decides whether the holder of the key `key` may enrol with `presented`, and as which host.
///
/// `stored` is the row found under the token's hash. A used token is refused, with one exception: the key that used it
/// may repeat its request until the token expires, because the answer may have been lost on the way. (The request's
/// signature proves that it holds the key, so nobody else gains anything by that.)
///
/// # Errors
/// When the token is unknown, used or expired.
pub fn judge(
    stored: Option<&StoredToken>,
    presented: &EnrolmentToken,
    key: &Fingerprint,
    now: UnixMillis,
) -> Result<HostId, EnrolmentRefused> {
    let stored = stored.filter(|stored| stored.hash == presented.hash()).ok_or(EnrolmentRefused::Unknown)?;
    if stored.used_by.is_some_and(|user| user != *key) {
        return Err(EnrolmentRefused::Used);
    }
    if now >= stored.expires_at {
        return Err(EnrolmentRefused::Expired);
    }
    Ok(stored.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn host() -> HostId {
        "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e".parse().unwrap()
    }

    fn row(token: &EnrolmentToken) -> StoredToken {
        let expires_at = NOW.plus_seconds(TOKEN_LIFE_SECONDS);
        StoredToken { hash: token.hash(), host: host(), expires_at, used_by: None }
    }

    #[test]
    fn a_token_is_good_once_for_an_hour_for_the_host_of_its_row() {
        let token = EnrolmentToken::generate().unwrap();
        let (mine, other) = (Fingerprint::of(b"my key"), Fingerprint::of(b"another key"));
        let fresh = row(&token);
        let used = |by| StoredToken { used_by: Some(by), ..row(&token) };
        let last = UnixMillis(fresh.expires_at.0 - 1);
        let over = fresh.expires_at;
        let table = [
            ("fresh", Some(fresh.clone()), NOW, Ok(host())),
            ("last millisecond", Some(fresh.clone()), last, Ok(host())),
            ("expired", Some(fresh), over, Err(EnrolmentRefused::Expired)),
            ("unknown", None, NOW, Err(EnrolmentRefused::Unknown)),
            (
                "another's row",
                Some(row(&EnrolmentToken::generate().unwrap())),
                NOW,
                Err(EnrolmentRefused::Unknown),
            ),
            ("used by another key", Some(used(other)), NOW, Err(EnrolmentRefused::Used)),
            ("used and expired", Some(used(other)), over, Err(EnrolmentRefused::Used)),
            ("repeated by its own key", Some(used(mine)), NOW, Ok(host())),
            ("repeated too late", Some(used(mine)), over, Err(EnrolmentRefused::Expired)),
        ];
        for (case, stored, now, expected) in table {
            assert_eq!(judge(stored.as_ref(), &token, &mine, now), expected, "{case}");
        }
    }

    #[test]
    fn a_token_reads_back_from_its_text_and_is_never_debugged() {
        let token = EnrolmentToken::generate().unwrap();
        let text = token.reveal();
        assert_eq!(text.parse::<EnrolmentToken>().unwrap().hash(), token.hash());
        let shown = format!("{token:?}");
        assert!(!shown.contains(&text[TOKEN_PREFIX.len()..]), "{shown}");
        assert_ne!(EnrolmentToken::generate().unwrap().reveal(), text);
    }

    #[test]
    fn a_cut_token_says_so() {
        let text = EnrolmentToken::generate().unwrap().reveal();
        let cut = text[..text.len() - 1].parse::<EnrolmentToken>();
        assert_eq!(cut.unwrap_err(), TokenError::Digits { characters: 63 });
        assert_eq!(
            format!("{text}00").parse::<EnrolmentToken>().unwrap_err(),
            TokenError::Digits { characters: 66 }
        );
        assert_eq!("hello".parse::<EnrolmentToken>().unwrap_err(), TokenError::Prefix);
    }

    #[test]
    fn a_hash_is_stored_as_hexadecimal() {
        let token: EnrolmentToken = format!("{TOKEN_PREFIX}{}", "00".repeat(32)).parse().unwrap();
        let json = serde_json::to_string(&token.hash()).unwrap();
        assert_eq!(json, "\"66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925\"");
        assert_eq!(serde_json::from_str::<TokenHash>(&json).unwrap(), token.hash());
    }
}
