//! One object's members, as far as their names are on a list: strictly read, and borrowed.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::CallFault;
use super::keys::reads_as;

/// The values of the members named in a list of `N`, as they stand in the text.
pub(super) struct Object<'de, const N: usize> {
    pub(super) values: [Option<&'de str>; N],
    pub(super) is_empty: bool,
}

/// Why an object was not read.
pub(super) struct Refusal {
    error: serde_json::Error,
    /// The name at fault and what is wrong with it; otherwise the JSON itself is.
    name: Option<(&'static str, &'static str)>,
    not_an_object: bool,
}

impl<'de, const N: usize> Object<'de, N> {
    /// Reads all of `text`, which must be one object, in a single pass that keeps what `names` lists and steps over
    /// the rest without recursion.
    pub(super) fn read(text: &'de str, names: &[&'static str; N]) -> Result<Self, Refusal> {
        let mut visit = Visit { names, object: Self { values: [None; N], is_empty: true }, bent: None };
        let mut json = serde_json::Deserializer::from_str(text);
        match json.deserialize_map(&mut visit).and_then(|()| json.end()) {
            Ok(()) => Ok(visit.object),
            Err(error) => {
                let not_an_object = error.is_data() && visit.bent.is_none();
                Err(Refusal { error, name: visit.bent, not_an_object })
            }
        }
    }
}

impl Refusal {
    pub(super) fn into_fault(self) -> CallFault {
        match self.name {
            Some((name, how)) => CallFault::ambiguous(name, how, &self.error),
            None if self.not_an_object => CallFault::not_an_object(),
            None => CallFault::malformed(&self.error),
        }
    }
}

struct Visit<'n, 'de, const N: usize> {
    names: &'n [&'static str; N],
    object: Object<'de, N>,
    bent: Option<(&'static str, &'static str)>,
}

impl<'de, const N: usize> Visitor<'de> for &mut Visit<'_, 'de, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name(self.names))? {
            self.object.is_empty = false;
            match name {
                Named::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
                Named::Exactly(index) if self.object.values[index].is_none() => {
                    self.object.values[index] = Some(map.next_value::<&RawValue>()?.get());
                }
                Named::Exactly(index) => return self.refuse(index, "given more than once"),
                Named::Escaped(index) => return self.refuse(index, "written with escapes"),
                Named::OtherCase(index) => return self.refuse(index, "written in another case"),
            }
        }
        Ok(())
    }
}

impl<const N: usize> Visit<'_, '_, N> {
    fn refuse<E: serde::de::Error>(&mut self, index: usize, how: &'static str) -> Result<(), E> {
        self.bent = Some((self.names[index], how));
        Err(E::custom(how))
    }
}

/// A key, held against the list.
enum Named {
    Exactly(usize),
    Escaped(usize),
    OtherCase(usize),
    Other,
}

struct Name<'n, const N: usize>(&'n [&'static str; N]);

impl<const N: usize> Name<'_, N> {
    fn classify(&self, key: &str, exact: fn(usize) -> Named) -> Named {
        if let Some(index) = self.0.iter().position(|name| *name == key) {
            return exact(index);
        }
        self.0.iter().position(|name| reads_as(key, name)).map_or(Named::Other, Named::OtherCase)
    }
}

impl<'de, const N: usize> DeserializeSeed<'de> for Name<'_, N> {
    type Value = Named;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Named, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<const N: usize> Visitor<'_> for Name<'_, N> {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    /// `serde_json` lends a key that stands in the text as it is meant.
    fn visit_borrowed_str<E: serde::de::Error>(self, key: &str) -> Result<Named, E> {
        Ok(self.classify(key, Named::Exactly))
    }

    /// And copies one that it had to unescape.
    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Named, E> {
        Ok(self.classify(key, Named::Escaped))
    }
}
