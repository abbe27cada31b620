//! The fields that a type deserialises, found by asking the type itself.
//!
//! A recording `Deserializer` hands out every field once and notes what is asked of it. So unknown fields, spelling hints,
//! the treatment of nulls, the coverage table and the OpenAPI schemas of the CRDs cannot disagree with the types, and nobody
//! keeps a second list.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::duration::Duration;

/// The shape of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// A number, string, boolean or enum.
    Leaf(Scalar),
    /// Fields by the name users write, and the name of the type.
    Struct(&'static str, BTreeMap<&'static str, Schema>),
    /// Keys are the user's.
    Map(Box<Schema>),
    /// A list.
    List(Box<Schema>),
}

/// What a single value is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scalar {
    /// The type takes whatever it is given.
    #[default]
    Any,
    /// `true` or `false`.
    Bool,
    /// A whole number from `min` to `max`.
    Integer {
        /// The least value of the type.
        min: i64,
        /// The greatest.
        max: u64,
    },
    /// Any number.
    Number,
    /// A string.
    Text,
    /// A [`Duration`].
    Duration,
    /// One of these words.
    Enum(&'static [&'static str]),
}

impl Default for Schema {
    fn default() -> Self {
        Self::Leaf(Scalar::default())
    }
}

impl Schema {
    /// The shape of `T`. `T` must not contain itself.
    pub fn of<T: for<'de> Deserialize<'de>>() -> Self {
        let mut schema = Self::default();
        // A type that refuses the sample values still has shown its fields up to there; `every_kind_is_recorded` below
        // sees to it that none of ours does.
        let _recorded = T::deserialize(Recorder { schema: &mut schema });
        schema
    }

    /// Calls `visit` with the path of each field, `http[].route[].weight`; map keys are `{}`.
    pub fn each_field(&self, visit: &mut impl FnMut(&str)) {
        self.each_below("", visit);
    }

    fn each_below(&self, path: &str, visit: &mut impl FnMut(&str)) {
        match self {
            Self::Leaf(_) => {}
            Self::List(item) => item.each_below(&format!("{path}[]"), visit),
            Self::Map(value) => value.each_below(&format!("{path}{{}}"), visit),
            Self::Struct(_, fields) => {
                for (name, field) in fields {
                    let path = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
                    visit(&path);
                    field.each_below(&path, visit);
                }
            }
        }
    }
}

struct Recorder<'a> {
    schema: &'a mut Schema,
}

macro_rules! scalars {
    ($($method:ident => $scalar:expr, $visit:ident($value:expr);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            *self.schema = Schema::Leaf($scalar);
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Recorder<'_> {
    type Error = Error;

    scalars! {
        deserialize_bool => Scalar::Bool, visit_bool(true);
        deserialize_i8 => integer(i8::MIN.into(), i8::MAX.unsigned_abs().into()), visit_i64(1);
        deserialize_i16 => integer(i16::MIN.into(), i16::MAX.unsigned_abs().into()), visit_i64(1);
        deserialize_i32 => integer(i32::MIN.into(), i32::MAX.unsigned_abs().into()), visit_i64(1);
        deserialize_i64 => integer(i64::MIN, i64::MAX.unsigned_abs()), visit_i64(1);
        deserialize_u8 => integer(0, u8::MAX.into()), visit_u64(1);
        deserialize_u16 => integer(0, u16::MAX.into()), visit_u64(1);
        deserialize_u32 => integer(0, u32::MAX.into()), visit_u64(1);
        deserialize_u64 => integer(0, u64::MAX), visit_u64(1);
        deserialize_f32 => Scalar::Number, visit_f64(1.0);
        deserialize_f64 => Scalar::Number, visit_f64(1.0);
        // Also a duration.
        deserialize_any => Scalar::Any, visit_str("1s");
        deserialize_str => Scalar::Text, visit_str("1s");
        deserialize_string => Scalar::Text, visit_str("1s");
        deserialize_identifier => Scalar::Text, visit_str("1s");
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Self { schema } = self;
        let value = visitor.visit_newtype_struct(Recorder { schema: &mut *schema });
        if name == Duration::NAME {
            *schema = Schema::Leaf(Scalar::Duration);
        }
        value
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut item = Schema::default();
        let value = visitor.visit_seq(OneItem { item: Some(&mut item) });
        *self.schema = Schema::List(Box::new(item));
        value
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut value = Schema::default();
        let result = visitor.visit_map(OneEntry { key: true, value: &mut value });
        *self.schema = Schema::Map(Box::new(value));
        result
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut fields = BTreeMap::new();
        let result = visitor.visit_map(Fields { names: names.iter(), current: None, fields: &mut fields });
        *self.schema = Schema::Struct(name, fields);
        result
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.schema = Schema::Leaf(Scalar::Enum(variants));
        visitor.visit_enum(FirstVariant { name: variants.first().copied().unwrap_or_default() })
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct ignored_any }
}

fn integer(min: i64, max: u64) -> Scalar {
    Scalar::Integer { min, max }
}

struct OneItem<'a> {
    item: Option<&'a mut Schema>,
}

impl<'de> SeqAccess<'de> for OneItem<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.item.take().map(|schema| seed.deserialize(Recorder { schema })).transpose()
    }
}

struct OneEntry<'a> {
    key: bool,
    value: &'a mut Schema,
}

impl<'de> MapAccess<'de> for OneEntry<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if !std::mem::take(&mut self.key) {
            return Ok(None);
        }
        seed.deserialize("key".into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Recorder { schema: self.value })
    }
}

struct Fields<'a> {
    names: std::slice::Iter<'static, &'static str>,
    current: Option<&'static str>,
    fields: &'a mut BTreeMap<&'static str, Schema>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(&name) = self.names.next() else { return Ok(None) };
        self.current = Some(name);
        let name: de::value::StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let name = self.current.take().unwrap_or_default();
        seed.deserialize(Recorder { schema: self.fields.entry(name).or_default() })
    }
}

struct FirstVariant {
    name: &'static str,
}

impl<'de> EnumAccess<'de> for FirstVariant {
    type Error = Error;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Unit), Error> {
        let name: de::value::StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Unit))
    }
}

/// The API's enums have no content.
struct Unit;

impl<'de> de::VariantAccess<'de> for Unit {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(de::Error::custom("an enum with content"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("an enum with content"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("an enum with content"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::destination_rule::DestinationRule;
    use crate::api::gateway::Gateway;
    use crate::api::mesh_config::MeshConfig;
    use crate::api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
    use crate::api::service_entry::{ServiceEntry, WorkloadEntry};
    use crate::api::sidecar::Sidecar;
    use crate::api::virtual_service::VirtualService;

    #[test]
    fn every_kind_is_recorded() {
        fn check<T: for<'de> Deserialize<'de>>(fields: usize) {
            let mut schema = Schema::default();
            T::deserialize(Recorder { schema: &mut schema }).map(|_| ()).expect("accepts the sample values");
            let mut count = 0;
            schema.each_field(&mut |_| count += 1);
            assert!(count >= fields, "{}: {count} fields", std::any::type_name::<T>());
        }
        check::<VirtualService>(120);
        check::<DestinationRule>(200);
        check::<Gateway>(25);
        check::<ServiceEntry>(20);
        check::<WorkloadEntry>(7);
        check::<Sidecar>(30);
        check::<AuthorizationPolicy>(40);
        check::<PeerAuthentication>(6);
        check::<RequestAuthentication>(25);
        check::<MeshConfig>(40);
    }

    #[test]
    fn paths_name_lists_and_maps() {
        let mut paths = Vec::new();
        Schema::of::<VirtualService>().each_field(&mut |path| paths.push(path.to_owned()));
        for path in [
            "http[].match[].headers{}.regex",
            "http[].route[].destination.port.number",
            "hosts",
            "http[].timeout",
        ] {
            assert!(paths.iter().any(|have| have == path), "{path}");
        }
    }

    #[test]
    fn scalars_know_their_types() {
        fn find<'a>(schema: &'a Schema, path: &str) -> &'a Schema {
            path.split('.').fold(schema, |schema, part| match schema {
                Schema::Struct(_, fields) => fields.get(part).map_or(schema, |field| match field {
                    Schema::List(item) => item,
                    field => field,
                }),
                schema => schema,
            })
        }
        let spec = Schema::of::<VirtualService>();
        for (path, want) in [
            ("http.name", Scalar::Text),
            ("http.timeout", Scalar::Duration),
            ("http.route.weight", integer(i32::MIN.into(), i32::MAX.unsigned_abs().into())),
            ("http.match.port", integer(0, u32::MAX.into())),
            ("http.match.ignoreUriCase", Scalar::Bool),
            ("http.mirrorPercentage.value", Scalar::Number),
            ("http.corsPolicy.unmatchedPreflights", Scalar::Enum(&["UNSPECIFIED", "FORWARD", "IGNORE"])),
        ] {
            assert_eq!(find(&spec, path), &Schema::Leaf(want), "{path}");
        }
        assert!(matches!(find(&spec, "http"), Schema::Struct("HttpRoute", _)));
    }
}
