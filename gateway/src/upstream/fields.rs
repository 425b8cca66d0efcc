//! Headers that are only to be written: a list, since nobody looks a name up in it and a map would be made for nothing.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The headers of a request, in the order they are written in.
#[derive(Debug, Clone, Default)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

impl Fields {
    /// None, with room for some.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Adds one, whether or not there is one of that name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Adds one in the place of any of that name.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        self.remove(&name);
        self.append(name, value);
    }

    /// Removes all of that name.
    pub fn remove(&mut self, name: &HeaderName) {
        if self.0.iter().any(|(known, _)| known == name) {
            self.0.retain(|(known, _)| known != name);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::with_capacity(map.len());
        fields.0.extend(map.iter().map(|(name, value)| (name.clone(), value.clone())));
        fields
    }
}

impl From<Fields> for HeaderMap {
    fn from(fields: Fields) -> Self {
        let mut map = Self::with_capacity(fields.0.len());
        for (name, value) in fields.0 {
            map.append(name, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    #[test]
    fn what_is_inserted_takes_the_place_of_all_others_of_its_name() {
        let mut fields = Fields::default();
        for value in ["a", "b"] {
            fields.append(header::ACCEPT, HeaderValue::from_static(value));
            fields.append(header::VIA, HeaderValue::from_static(value));
        }
        fields.insert(header::ACCEPT, HeaderValue::from_static("c"));
        let told: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(told, ["via: a", "via: b", "accept: c"]);
        let map = HeaderMap::from(fields);
        assert_eq!((map.len(), map.get_all(header::VIA).iter().count()), (3, 2));
    }
}
