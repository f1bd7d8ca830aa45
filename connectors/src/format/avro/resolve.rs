//! Which schema reads what another wrote (Avro specification, Schema Resolution).
//!
//! Schemas may go round in circles, so two named types are taken to fit until something is found that does not: each pair is
//! looked at by itself, and once more when one that it relied on is found not to. So the work is bounded by the product of
//! the sizes of both, and nothing is deeper than a schema's text is nested.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::format::avro::schema::{AvroSchema, Named, Shape};

/// Longest path of a field that is told; of a longer one its end.
const PATH_BYTES_MAX: usize = 200;

impl AvroSchema {
    /// Whether datums of `writer` can be read by this schema; or why not.
    pub(crate) fn reads(&self, writer: &Self) -> Result<(), String> {
        let mut pairs = Pairs {
            reader: self,
            writer,
            known: BTreeMap::new(),
            waiting: VecDeque::new(),
        };
        let root = (self.root, writer.root);
        pairs.wait(root);
        pairs.settle();
        match pairs.known.remove(&root).and_then(|known| known.misfit) {
            None => Ok(()),
            Some(misfit) => Err(misfit.to_string()),
        }
    }
}

/// A named type of the reader and one of the writer.
type Pair = (usize, usize);

/// What is known of a pair.
#[derive(Default)]
struct Known {
    misfit: Option<Misfit>,
    /// Pairs that were found to fit because this one was taken to.
    relied_on_by: BTreeSet<Pair>,
    waits: bool,
}

/// Which field does not fit, and why.
#[derive(Clone, Debug)]
struct Misfit {
    path: String,
    reason: String,
}

impl Misfit {
    fn new(reason: String) -> Self {
        Self {
            path: String::new(),
            reason,
        }
    }

    fn within(mut self, field: &str) -> Self {
        if self.path.is_empty() {
            field.clone_into(&mut self.path);
        } else if self.path.len() < PATH_BYTES_MAX {
            self.path = format!("{field}.{}", self.path);
        }
        self
    }
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "the record {}", self.reason),
            path => write!(f, "field {path} {}", self.reason),
        }
    }
}

struct Pairs<'a> {
    reader: &'a AvroSchema,
    writer: &'a AvroSchema,
    known: BTreeMap<Pair, Known>,
    waiting: VecDeque<Pair>,
}

impl Pairs<'_> {
    /// Looks at all pairs that were met, until nothing changes any more.
    fn settle(&mut self) {
        while let Some(pair) = self.waiting.pop_front() {
            let known = self.known.entry(pair).or_default();
            known.waits = false;
            if known.misfit.is_some() {
                continue;
            }
            let Err(misfit) = self.look(pair) else {
                continue;
            };
            let known = self.known.entry(pair).or_default();
            known.misfit = Some(misfit);
            for other in std::mem::take(&mut known.relied_on_by) {
                self.wait(other);
            }
        }
    }

    fn wait(&mut self, pair: Pair) {
        let known = self.known.entry(pair).or_default();
        if !known.waits && known.misfit.is_none() {
            known.waits = true;
            self.waiting.push_back(pair);
        }
    }

    /// Whether two named types fit, if those within them do that are not known not to.
    fn look(&mut self, pair: Pair) -> Result<(), Misfit> {
        let (reader, writer) = (self.reader.named(pair.0), self.writer.named(pair.1));
        match (reader, writer) {
            (Named::Record(fields), Named::Record(written)) => {
                for field in fields {
                    let fits = match written.iter().find(|known| known.name == field.name) {
                        Some(known) => self.fit(&field.shape, &known.shape, pair),
                        None if field.default.is_some() => Ok(()),
                        None => Err(Misfit::new("is new and has no default".to_owned())),
                    };
                    fits.map_err(|misfit| misfit.within(&field.name))?;
                }
                Ok(())
            }
            (Named::Enum(symbols, default), Named::Enum(written, _)) => {
                match written.iter().find(|symbol| !symbols.contains(symbol)) {
                    Some(symbol) if default.is_none() => Err(Misfit::new(format!(
                        "has no symbol {symbol} any more, and no default"
                    ))),
                    _ => Ok(()),
                }
            }
            (Named::Fixed(size), Named::Fixed(written)) if size == written => Ok(()),
            _ => Err(Misfit::new("is of another kind".to_owned())),
        }
    }

    /// Whether two shapes fit, as far as is known; `of` is the pair that they stand in.
    fn fit(&mut self, reader: &Shape, writer: &Shape, of: Pair) -> Result<(), Misfit> {
        match (reader, writer) {
            (_, Shape::Union(writers)) => {
                for shape in writers {
                    self.fit(reader, shape, of)?;
                }
                Ok(())
            }
            (Shape::Union(readers), writer) => {
                let fits = readers
                    .iter()
                    .any(|shape| self.fit(shape, writer, of).is_ok());
                match fits {
                    true => Ok(()),
                    false => Err(Misfit::new(format!(
                        "was {}, which no branch of its union takes",
                        word(self.writer, writer)
                    ))),
                }
            }
            (Shape::Array(reader), Shape::Array(writer))
            | (Shape::Map(reader), Shape::Map(writer)) => self.fit(reader, writer, of),
            (Shape::Named(reader), Shape::Named(writer)) => {
                let pair = (*reader, *writer);
                let is_new = !self.known.contains_key(&pair);
                let known = self.known.entry(pair).or_default();
                if let Some(misfit) = &known.misfit {
                    return Err(misfit.clone());
                }
                known.relied_on_by.insert(of);
                if is_new {
                    self.wait(pair);
                }
                Ok(())
            }
            (reader, writer) if reader == writer || promotes(writer, reader) => Ok(()),
            (reader, writer) => Err(Misfit::new(format!(
                "was {} and is {}",
                word(self.writer, writer),
                word(self.reader, reader)
            ))),
        }
    }
}

fn word(schema: &AvroSchema, shape: &Shape) -> String {
    match shape {
        Shape::Named(at) => match schema.names.get(*at) {
            Some(name) => name.clone(),
            None => "a named type".to_owned(),
        },
        Shape::Text => "string".to_owned(),
        Shape::Array(_) => "an array".to_owned(),
        Shape::Map(_) => "a map".to_owned(),
        Shape::Union(_) => "a union".to_owned(),
        Shape::Decimal(precision, scale, _) => format!("decimal({precision}, {scale})"),
        Shape::Timestamp(1_000) => "timestamp-millis".to_owned(),
        Shape::Timestamp(1_000_000) => "timestamp-micros".to_owned(),
        Shape::Timestamp(_) => "timestamp-nanos".to_owned(),
        plain => format!("{plain:?}").to_lowercase(),
    }
}

/// Whether values of `from` are read as `to` without loss of meaning.
fn promotes(from: &Shape, to: &Shape) -> bool {
    use Shape::{Bytes, Double, Float, Int, Long, Text};
    matches!(
        (from, to),
        (Int, Long | Float | Double)
            | (Long, Float | Double)
            | (Float, Double)
            | (Text, Bytes)
            | (Bytes, Text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &[String]) -> AvroSchema {
        let fields = fields.join(",");
        let text = format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        AvroSchema::parse(text.as_bytes()).unwrap()
    }

    /// A record as a field with a default.
    fn record(name: &str, inner: &str, of: &str) -> String {
        format!(
            r#"{{"name":"{name}","type":{{"type":"record","name":"{}","fields":[{{"name":"{inner}","type":{of}}}]}},"default":null}}"#,
            name.to_uppercase()
        )
    }

    /// A record that holds itself after so many others.
    fn circle(length: usize) -> AvroSchema {
        let mut fields = vec![record("a1", "next", r#""R""#)];
        for at in 2..length {
            fields.push(record(
                &format!("a{at}"),
                "next",
                &format!(r#""A{}""#, at - 1),
            ));
        }
        fields.push(format!(
            r#"{{"name":"next","type":"A{}","default":null}}"#,
            length - 1
        ));
        schema(&fields)
    }

    #[test]
    fn circles_of_other_lengths_are_walked_without_depth() {
        let (one, other) = (circle(200), circle(201));
        assert_eq!(one.reads(&other), Ok(()));
        assert_eq!(other.reads(&one), Ok(()));
    }

    #[test]
    fn a_branch_that_does_not_fit_is_looked_at_once() {
        let length = 60;
        let chain = |names: &[&str], end: &str| {
            let mut fields = Vec::new();
            for at in 0..=length {
                let before: Vec<String> = names
                    .iter()
                    .map(|name| format!(r#""{}{}""#, name.to_uppercase(), at - 1_i32))
                    .collect();
                let of = match at {
                    0 => end.to_owned(),
                    _ => format!("[{}]", before.join(",")),
                };
                fields.extend(
                    names
                        .iter()
                        .map(|name| record(&format!("{name}{at}"), "f", &of)),
                );
            }
            let last: Vec<String> = names
                .iter()
                .map(|name| format!(r#""{}{length}""#, name.to_uppercase()))
                .collect();
            fields.push(format!(r#"{{"name":"f","type":[{}]}}"#, last.join(",")));
            schema(&fields)
        };
        let reader = chain(&["a", "b"], r#""int""#);
        let refused = reader.reads(&chain(&["w"], r#""string""#)).unwrap_err();
        assert_eq!(
            refused,
            "field f was W60, which no branch of its union takes"
        );
        assert_eq!(reader.reads(&chain(&["w"], r#""int""#)), Ok(()));
    }

    #[test]
    fn what_relied_on_a_pair_that_does_not_fit_is_looked_at_again() {
        let list = |end: &str| {
            schema(&[
                record("tail", "end", end),
                // A node relies on itself and on the tail.
                record("node", "next", r#"["null","NODE","TAIL"]"#),
                r#"{"name":"head","type":["null","NODE"]}"#.to_owned(),
            ])
        };
        assert_eq!(list(r#""long""#).reads(&list(r#""int""#)), Ok(()));
        assert_eq!(
            list(r#""int""#).reads(&list(r#""long""#)).unwrap_err(),
            "field tail.end was long and is int"
        );
    }

    #[test]
    fn a_refusal_tells_the_units_of_times() {
        let at = |unit: &str| {
            schema(&[format!(
                r#"{{"name":"at","type":{{"type":"long","logicalType":"timestamp-{unit}"}}}}"#
            )])
        };
        assert_eq!(
            at("micros").reads(&at("millis")).unwrap_err(),
            "field at was timestamp-millis and is timestamp-micros"
        );
    }
}
