//! Lists on the wire: every one has a bound that is checked before its first element is read, and elements that take
//! space (bincode 2.0.1 spins for minutes on a hostile length of zero-size ones). No other sequence may be in a v1 type.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a list reserves at once; a longer one grows as its elements really come.
const RESERVED_BYTES_MAX: usize = 64 * 1024;

/// At most `MAX` elements. Checked when read: what is written was bounded where it was made.
#[derive(Debug)]
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    const ELEMENT_BYTES: usize = {
        assert!(size_of::<T>() > 0, "a list of zero-size elements can be of any length in no bytes at all");
        size_of::<T>()
    };
}

impl<T, const MAX: usize> FromIterator<T> for List<T, MAX> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Self(elements.into_iter().collect())
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a list of at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let announced = elements.size_hint().unwrap_or(0);
        if announced > MAX {
            return Err(A::Error::custom(format!(
                "a list announces {announced} elements; at most {MAX} are allowed"
            )));
        }
        let reserve = RESERVED_BYTES_MAX / List::<T, MAX>::ELEMENT_BYTES;
        let mut list = Vec::with_capacity(announced.min(reserve));
        while let Some(element) = elements.next_element()? {
            if list.len() == list.capacity() {
                // Doubled as elements come, but never beyond what was announced.
                list.reserve_exact(announced.saturating_sub(list.len()).min(list.len()).max(1));
            }
            list.push(element);
        }
        Ok(List(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::codec::{from_bytes, to_bytes};

    #[test]
    fn a_list_has_the_bytes_of_a_vector_and_a_bound() {
        let bytes = to_bytes(&vec![7_u64, 8, 9]).unwrap();
        assert_eq!(bytes, to_bytes(&List::<u64, 3>(vec![7, 8, 9])).unwrap());
        assert_eq!(from_bytes::<List<u64, 3>>(&bytes).unwrap().0, [7, 8, 9]);
        assert!(from_bytes::<List<u64, 2>>(&bytes).is_err());
    }
}
