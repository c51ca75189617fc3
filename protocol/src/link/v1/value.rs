//! Values that several v1 messages share: ids, addresses, names, texts. FROZEN: see `v1`.

use std::fmt::Display;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::link::codec::DecodeError;
use crate::units;

/// Longest text that a message brings for people to read. Longer ones lose their end, on both sides: a problem that was
/// told at length must not stop the report it is in.
pub(super) const TEXT_BYTES_MAX: usize = 1024;
/// Longest name of a device or of what a card is plugged into.
pub(super) const SHORT_BYTES_MAX: usize = 64;

/// An id: the bytes of its UUID.
pub(super) type Id = [u8; 16];

/// See [`units::Generation`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Generation {
    epoch: u64,
    number: u64,
}

impl From<units::Generation> for Generation {
    fn from(generation: units::Generation) -> Self {
        let units::Generation { epoch, number } = generation;
        Self { epoch, number }
    }
}

impl From<Generation> for units::Generation {
    fn from(generation: Generation) -> Self {
        let Generation { epoch, number } = generation;
        Self { epoch, number }
    }
}

/// An IP address.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => Self::V6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(octets) => octets.into(),
            Address::V6(octets) => octets.into(),
        }
    }
}

/// A host's address: of one machine, which 0.0.0.0 and the multicast groups are not.
pub(super) fn unicast(field: &str, address: Address) -> Result<IpAddr, DecodeError> {
    let address = IpAddr::from(address);
    if address.is_unspecified() || address.is_multicast() {
        return Err(bad(field, format_args!("{address} is not the address of one machine")));
    }
    Ok(address)
}

/// A name as [`Name`] has them.
pub(super) fn name(field: &str, text: String) -> Result<Name, DecodeError> {
    Name::try_from(text).map_err(|error| bad(field, error))
}

/// A text as people read it: one line of at most `bytes_max` bytes. What a host says ends up in mails and on
/// terminals, so control characters become spaces.
pub(super) fn line(text: &str, bytes_max: usize) -> String {
    const CUT: &str = "…";
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    // A control character above U+007F takes two bytes and its space one: the text only gets shorter.
    let line: String = text.chars().map(printable).collect();
    if line.len() <= bytes_max {
        return line;
    }
    let Some(room) = bytes_max.checked_sub(CUT.len()) else { return String::new() };
    let end = line.floor_char_boundary(room);
    format!("{}{CUT}", &line[..end])
}

/// Says which field is wrong and why.
pub(super) fn bad(field: &str, why: impl Display) -> DecodeError {
    DecodeError::Bad(format!("{field}: {why}"))
}

/// Says in which part of a message the wrong field is.
pub(super) trait Within<T> {
    fn within(self, part: impl Display) -> Result<T, DecodeError>;
}

impl<T> Within<T> for Result<T, DecodeError> {
    fn within(self, part: impl Display) -> Result<T, DecodeError> {
        self.map_err(|error| match error {
            DecodeError::Bad(why) => DecodeError::Bad(format!("{part}: {why}")),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_short_printable_and_stays_as_it_is_the_second_time() {
        for (text, bytes_max, expected) in [
            ("", 8, ""),
            ("as it is", 8, "as it is"),
            ("as it was", 8, "as it…"),
            ("äöü", 5, "ä…"),
            ("a\nb\u{1b}[31m", 64, "a b [31m"),
            ("gone", 2, ""),
        ] {
            let once = line(text, bytes_max);
            assert_eq!(once, expected);
            assert_eq!(line(&once, bytes_max), once);
        }
    }
}
