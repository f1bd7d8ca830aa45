//! Which schema reads what another wrote (Avro specification, Schema Resolution).

use std::collections::BTreeSet;

use crate::format::avro::schema::{AvroSchema, Named, Shape};

impl AvroSchema {
    /// Whether datums of `writer` can be read by this schema; or why not.
    pub(crate) fn reads(&self, writer: &Self) -> Result<(), String> {
        let mut pair = Pair {
            reader: self,
            writer,
            seen: BTreeSet::new(),
        };
        pair.resolve(&self.root(), &writer.root(), "")
    }
}

struct Pair<'a> {
    reader: &'a AvroSchema,
    writer: &'a AvroSchema,
    /// Named types that were met before: they may hold themselves.
    seen: BTreeSet<(usize, usize)>,
}

impl Pair<'_> {
    fn resolve(&mut self, reader: &Shape, writer: &Shape, path: &str) -> Result<(), String> {
        let place = match path {
            "" => "the record".to_owned(),
            path => format!("field {path}"),
        };
        match (reader, writer) {
            (_, Shape::Union(writers)) => {
                for shape in writers {
                    self.resolve(reader, shape, path)?;
                }
                Ok(())
            }
            (Shape::Union(readers), writer) => {
                let fits = readers.iter().any(|shape| {
                    let before = self.seen.clone();
                    let fits = self.resolve(shape, writer, path).is_ok();
                    if !fits {
                        self.seen = before;
                    }
                    fits
                });
                match fits {
                    true => Ok(()),
                    false => Err(format!(
                        "{place} was {}, which no branch of its union takes",
                        self.word(self.writer, writer)
                    )),
                }
            }
            (Shape::Array(reader), Shape::Array(writer))
            | (Shape::Map(reader), Shape::Map(writer)) => self.resolve(reader, writer, path),
            (Shape::Named(reader), Shape::Named(writer)) => self.named(*reader, *writer, path),
            (reader, writer) if reader == writer || promotes(writer, reader) => Ok(()),
            (reader, writer) => Err(format!(
                "{place} was {} and is {}",
                self.word(self.writer, writer),
                self.word(self.reader, reader)
            )),
        }
    }

    fn named(&mut self, reader: usize, writer: usize, path: &str) -> Result<(), String> {
        if !self.seen.insert((reader, writer)) {
            return Ok(());
        }
        match (self.reader.named(reader), self.writer.named(writer)) {
            (Named::Record(fields), Named::Record(written)) => {
                for field in fields {
                    let path = match path {
                        "" => field.name.clone(),
                        path => format!("{path}.{}", field.name),
                    };
                    match written.iter().find(|known| known.name == field.name) {
                        Some(known) => self.resolve(&field.shape, &known.shape, &path)?,
                        None if field.default.is_some() => {}
                        None => return Err(format!("field {path} is new and has no default")),
                    }
                }
                Ok(())
            }
            (Named::Enum(symbols, default), Named::Enum(written, _)) => {
                match written.iter().find(|symbol| !symbols.contains(symbol)) {
                    Some(symbol) if default.is_none() => Err(format!(
                        "field {path} has no symbol {symbol} any more, and no default"
                    )),
                    _ => Ok(()),
                }
            }
            (Named::Fixed(size), Named::Fixed(written)) if size == written => Ok(()),
            _ => Err(format!("field {path} is of another kind")),
        }
    }

    fn word(&self, schema: &AvroSchema, shape: &Shape) -> String {
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
            Shape::Timestamp(_) => "a timestamp".to_owned(),
            plain => format!("{plain:?}").to_lowercase(),
        }
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
