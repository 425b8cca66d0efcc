//! Typed settings out of the tree, through serde, with every error knowing which node it came from.

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::tree::{Content, Key, Node, Resolved, Scalar, resolve_plain};
use crate::trouble::{Kind, Trouble};

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Trouble;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.content {
            Content::Scalar(scalar) => visit_scalar(scalar, visitor),
            Content::List(items) => visitor.visit_seq(Items(items)),
            Content::Table(entries) => visitor.visit_map(Entries { entries, value: None }),
            Content::Gone => visitor.visit_unit(),
        }
        .map_err(|trouble: Trouble| trouble.at(&self.path))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.content {
            Content::Scalar(scalar) if scalar.loose => {
                visitor.visit_str(&scalar.text).map_err(|trouble: Trouble| trouble.at(&self.path))
            }
            Content::Scalar(Scalar { plain: true, text, .. })
                if !matches!(resolve_plain(text), Resolved::Text(_) | Resolved::Nothing) =>
            {
                Err(Trouble::new(Kind::Wrong("expected a text: put it in quotes".to_owned())).at(&self.path))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize_loosely(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize_loosely(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize_loosely(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        if self.is_nothing() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    /// `limits:` with every line below it commented out is an empty table, not a fault.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        // Serde would take the items of a list for the fields in their order.
        if let Content::List(_) = &self.content {
            let trouble: Trouble = de::Error::invalid_type(Unexpected::Seq, &"a table");
            return Err(trouble.at(&self.path));
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        if self.is_nothing() {
            let empty = Entries { entries: &[], value: None };
            return visitor.visit_map(empty).map_err(|trouble: Trouble| trouble.at(&self.path));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        if self.is_nothing() {
            return visitor.visit_seq(Items(&[])).map_err(|trouble: Trouble| trouble.at(&self.path));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        visitor.visit_enum(self).map_err(|trouble: Trouble| trouble.at(&self.path))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

impl Node {
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.resolve() == Resolved::Nothing)
    }

    /// For numbers and truth values: what came from a variable may be quoted.
    fn deserialize_loosely<'de, V: Visitor<'de>>(&'de self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.content {
            Content::Scalar(scalar) if scalar.loose && !scalar.plain => {
                let plain = Scalar { plain: true, ..scalar.clone() };
                visit_scalar(&plain, visitor).map_err(|trouble: Trouble| trouble.at(&self.path))
            }
            _ => self.deserialize_any(visitor),
        }
    }
}

fn visit_scalar<'de, V: Visitor<'de>>(scalar: &Scalar, visitor: V) -> Result<V::Value, Trouble> {
    match scalar.resolve() {
        Resolved::Nothing => visitor.visit_unit(),
        Resolved::Bool(value) => visitor.visit_bool(value),
        Resolved::Unsigned(value) => visitor.visit_u64(value),
        Resolved::Signed(value) => visitor.visit_i64(value),
        Resolved::Float(value) => visitor.visit_f64(value),
        Resolved::Text(text) => visitor.visit_str(text),
    }
}

struct Items<'de>(&'de [Node]);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Trouble;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Trouble> {
        while let Some((item, rest)) = self.0.split_first() {
            self.0 = rest;
            if !matches!(item.content, Content::Gone) {
                return seed.deserialize(item).map(Some).map_err(|trouble: Trouble| trouble.at(&item.path));
            }
        }
        Ok(None)
    }
}

struct Entries<'de> {
    entries: &'de [(Key, Node)],
    value: Option<&'de Node>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Trouble;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Trouble> {
        while let Some(((key, value), rest)) = self.entries.split_first() {
            self.entries = rest;
            if !matches!(value.content, Content::Gone) {
                self.value = Some(value);
                let key = StrDeserializer::<Trouble>::new(&key.text);
                return seed.deserialize(key).map(Some).map_err(|trouble: Trouble| trouble.at(&value.path));
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Trouble> {
        let Some(value) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(value).map_err(|trouble: Trouble| trouble.at(&value.path))
    }
}

/// `refuse`, or a table with the one key `pool`.
impl<'de> EnumAccess<'de> for &'de Node {
    type Error = Trouble;
    type Variant = Choice<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Choice<'de>), Trouble> {
        let (word, content) = match &self.content {
            Content::Scalar(scalar) => (&scalar.text, None),
            Content::Table(entries) if entries.len() == 1 => (&entries[0].0.text, Some(&entries[0].1)),
            Content::Table(_) => return Err(de::Error::custom("expected a word, or a table with exactly one key")),
            Content::List(_) | Content::Gone => return Err(de::Error::custom("expected a word, found a list")),
        };
        let path = content.map_or(&self.path, |node| &node.path);
        let variant = seed.deserialize(StrDeserializer::<Trouble>::new(word)).map_err(|t: Trouble| t.at(path))?;
        Ok((variant, Choice(content)))
    }
}

/// What follows the word of a choice.
pub(crate) struct Choice<'de>(Option<&'de Node>);

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Trouble;

    fn unit_variant(self) -> Result<(), Trouble> {
        match self.0 {
            None => Ok(()),
            Some(node) => {
                Err(Trouble::new(Kind::Wrong("this word stands alone: write it without a value".into())).at(&node.path))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Trouble> {
        match self.0 {
            Some(node) => seed.deserialize(node).map_err(|trouble: Trouble| trouble.at(&node.path)),
            None => Err(de::Error::custom("this word needs a value: write it as `{ word: value }`")),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Trouble> {
        Err(de::Error::custom("no setting is written like this"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Trouble> {
        Err(de::Error::custom("no setting is written like this"))
    }
}
