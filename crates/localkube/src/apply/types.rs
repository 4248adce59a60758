//! What a published schema says of a value, for whoever merges, compares or owns parts of it.

use serde_json::{Map, Value};

const PREFIX: &str = "#/components/schemas/";

/// The type of a value: a schema, or none where anything goes.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    schemas: &'a Map<String, Value>,
    schema: Option<&'a Value>,
}

/// How a value of a type is treated.
pub(super) enum Atom<'a> {
    Scalar(Scalar),
    List(List<'a>),
    Map(Fields<'a>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scalar {
    Numeric,
    String,
    Boolean,
    Any,
}

pub(super) struct List<'a> {
    pub form: ListForm<'a>,
    pub element: Type<'a>,
}

/// How a list is owned and merged.
pub(super) enum ListForm<'a> {
    /// As a whole.
    Atomic,
    /// Each value by itself.
    Set,
    /// Each item by these fields, some of which have a default.
    Keys(Vec<(&'a str, Option<&'a Value>)>),
}

pub(super) struct Fields<'a> {
    /// Owned and merged as a whole.
    pub atomic: bool,
    named: Option<&'a Map<String, Value>>,
    element: Option<Type<'a>>,
    schemas: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Whether the schema names this field.
    pub fn names(&self, field: &str) -> bool {
        self.named.is_some_and(|named| named.contains_key(field))
    }

    /// The type of a field; `None` if there is no such field.
    pub fn of(&self, field: &str) -> Option<Type<'a>> {
        match self.named.and_then(|named| named.get(field)) {
            Some(schema) => Some(Type {
                schemas: self.schemas,
                schema: Some(schema),
            }),
            None => self.element,
        }
    }
}

impl<'a> Type<'a> {
    /// The type of a schema.
    pub fn new(schemas: &'a Map<String, Value>, name: &str) -> Type<'a> {
        Type {
            schemas,
            schema: schemas.get(name),
        }
    }

    /// Where anything goes, maps merge and lists do not.
    fn deduced(self) -> Type<'a> {
        Type {
            schema: None,
            ..self
        }
    }

    /// How this value of the type is treated.
    pub fn atom(self, value: Option<&Value>) -> Atom<'a> {
        let Some(outer) = self.schema else {
            return self.deduce(value);
        };
        let (name, inner) = self.resolve(outer);
        match name {
            "Quantity" | "IntOrString" => return Atom::Scalar(Scalar::Any),
            name if crate::openapi::ANYTHING.contains(&name) => return self.deduce(value),
            _ => {}
        }
        let get = |name: &str| outer.get(name).or_else(|| inner.get(name));
        let preserve = get("x-kubernetes-preserve-unknown-fields")
            .is_some_and(|flag| flag == &Value::Bool(true));
        match inner.get("type").and_then(Value::as_str) {
            Some("string") => Atom::Scalar(Scalar::String),
            Some("integer" | "number") => Atom::Scalar(Scalar::Numeric),
            Some("boolean") => Atom::Scalar(Scalar::Boolean),
            Some("array") => Atom::List(List {
                form: list_form(&get, inner.get("items").map(|items| self.resolve(items).1)),
                element: Type {
                    schema: inner.get("items"),
                    ..self
                },
            }),
            Some("object") => {
                let named = inner
                    .get("properties")
                    .and_then(Value::as_object)
                    .filter(|named| !named.is_empty());
                let element = match inner.get("additionalProperties") {
                    Some(Value::Object(schema)) if !schema.is_empty() => Some(Type {
                        schema: inner.get("additionalProperties"),
                        ..self
                    }),
                    Some(Value::Object(_) | Value::Bool(true)) => Some(self.deduced()),
                    _ if preserve || named.is_none() => Some(self.deduced()),
                    _ => None,
                };
                Atom::Map(Fields {
                    atomic: get("x-kubernetes-map-type").is_some_and(|form| form == "atomic"),
                    named,
                    element,
                    schemas: self.schemas,
                })
            }
            _ if preserve || inner.as_object().is_none_or(Map::is_empty) => self.deduce(value),
            // Numbers that may be texts, and the like.
            _ => match value {
                Some(Value::Object(_) | Value::Array(_)) => self.deduce(value),
                _ => Atom::Scalar(Scalar::Any),
            },
        }
    }

    /// The schema that is referred to, and the last part of its name (empty for one without).
    fn resolve(self, schema: &'a Value) -> (&'a str, &'a Value) {
        let (mut name, mut schema) = ("", schema);
        // References of references are not made; the bound is there for schemas that a client wrote.
        for _ in 0..4 {
            let reference = schema
                .get("$ref")
                .or_else(|| schema.get("allOf")?.get(0)?.get("$ref"))
                .and_then(Value::as_str)
                .and_then(|name| name.strip_prefix(PREFIX));
            let Some((found, target)) =
                reference.and_then(|found| Some((found, self.schemas.get(found)?)))
            else {
                break;
            };
            name = found.rsplit('.').next().unwrap_or_default();
            schema = target;
        }
        (name, schema)
    }

    fn deduce(self, value: Option<&Value>) -> Atom<'a> {
        match value {
            Some(Value::Object(_)) => Atom::Map(Fields {
                atomic: false,
                named: None,
                element: Some(self.deduced()),
                schemas: self.schemas,
            }),
            Some(Value::Array(_)) => Atom::List(List {
                form: ListForm::Atomic,
                element: self.deduced(),
            }),
            _ => Atom::Scalar(Scalar::Any),
        }
    }
}

fn list_form<'a>(
    get: &dyn Fn(&str) -> Option<&'a Value>,
    items: Option<&'a Value>,
) -> ListForm<'a> {
    match get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListForm::Set,
        Some("map") => {
            let keys = get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let default = |name: &str| {
                items?
                    .get("properties")?
                    .get(name)?
                    .get("default")
                    .filter(|value| !value.is_null())
            };
            ListForm::Keys(
                keys.into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(|name| (name, default(name)))
                    .collect(),
            )
        }
        _ => ListForm::Atomic,
    }
}

impl ListForm<'_> {
    /// The step to an item, if the item has what identifies it.
    pub fn step(&self, item: &Value) -> Option<String> {
        match self {
            ListForm::Atomic => None,
            ListForm::Set => match item {
                Value::Object(_) | Value::Null => None,
                other => Some(format!("v:{other}")),
            },
            ListForm::Keys(keys) => {
                let item = item.as_object()?;
                let mut found: Vec<(&str, &Value)> = Vec::with_capacity(keys.len());
                for (name, default) in keys {
                    // A key that is absent does not identify, but others may.
                    let value = item.get(*name).filter(|value| !value.is_null());
                    if let Some(value) = value.or(*default) {
                        found.push((name, value));
                    }
                }
                found.sort_by_key(|(name, _)| *name);
                let found: Map<String, Value> = found
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.clone()))
                    .collect();
                Some(format!("k:{}", Value::Object(found)))
            }
        }
    }
}
