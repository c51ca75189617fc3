//! What a person signs in with: a name, or a mail address. Names are unique in a tenant, and in the fleet for its own people.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// Longest name: the longest mail address that a mail server takes (RFC 5321, section 4.5.3.1.3).
pub const USER_NAME_CHARACTERS_MAX: usize = 254;

/// A name or mail address, in lower case: people write theirs now so, now so.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, example = "anna@example.com"))]
#[serde(try_from = "String")]
pub struct UserName(Arc<str>);

/// Why a text is no [`UserName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserNameError {
    /// Nothing was given, or too much.
    #[error("a user's name has 1 to {USER_NAME_CHARACTERS_MAX} characters, not {characters}")]
    Length {
        /// How many there are.
        characters: usize,
    },
    /// A character that no name has.
    #[error(
        "`{character}` cannot be in a user's name; use letters, digits and `. _ - + @`, as in anna@example.com"
    )]
    Character {
        /// The first one at fault.
        character: char,
    },
    /// It is neither a name nor a mail address.
    #[error(
        "a user's name begins with a letter or digit and has at most one `@`, with something on both sides"
    )]
    Shape,
}

impl UserName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserName {
    type Error = UserNameError;

    fn try_from(text: String) -> Result<Self, UserNameError> {
        let characters = text.chars().count();
        if characters == 0 || characters > USER_NAME_CHARACTERS_MAX {
            return Err(UserNameError::Length { characters });
        }
        let is_odd = |c: &char| !(c.is_ascii_alphanumeric() || ".-_+@".contains(*c));
        if let Some(character) = text.chars().find(is_odd) {
            return Err(UserNameError::Character { character });
        }
        let sides: Vec<&str> = text.split('@').collect();
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric())
            || sides.len() > 2
            || sides.iter().any(|side| side.is_empty())
        {
            return Err(UserNameError::Shape);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl FromStr for UserName {
    type Err = UserNameError;

    fn from_str(text: &str) -> Result<Self, UserNameError> {
        Self::try_from(text.to_owned())
    }
}

impl Serialize for UserName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_name_is_a_name_or_a_mail_address_in_any_case() {
        for (given, kept) in
            [("anna", "anna"), ("Anna.B+x@Example.COM", "anna.b+x@example.com"), ("7_of-9", "7_of-9")]
        {
            assert_eq!(given.parse::<UserName>().unwrap().as_str(), kept);
        }
        let long = "a".repeat(255);
        for bad in ["", "@example.com", "anna@", "a@b@c", "-a", "a b", "a/b", "ä", "a\n", "..", long.as_str()]
        {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
    }
}
