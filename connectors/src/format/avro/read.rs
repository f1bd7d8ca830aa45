//! Datums to columns. A datum is read from its first to its last byte, whatever is wanted of it: Avro has no way to skip.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrow::array::BinaryArray;
use arrow::error::ArrowError;

use crate::format::avro::schema::{AvroSchema, Named, Shape, one_of};
use crate::format::avro::{DEPTH_MAX, SINGLE_OBJECT};
use crate::format::body::{Format, FormatError, SchemaVersion};
use crate::format::fit::{
    Bad, Columns, Datum, NESTED_TOO_LARGE, fit, nested_text_max, put_json_bytes, put_json_float,
    put_json_text, takes,
};
use crate::format::json::Decoded;
use crate::format::json::column::{Kind, Slot};

/// Reads datums of any version as columns.
#[derive(Clone, Debug)]
pub(crate) struct AvroDecoder {
    columns: Columns,
    versions: BTreeMap<u32, Version>,
}

/// One version of the schema, as it is read.
#[derive(Clone, Debug)]
struct Version {
    schema: AvroSchema,
    /// The column of each field; none for one that nobody declared.
    places: Vec<Option<usize>>,
    /// Columns that datums of this version lack, and what stands for them.
    defaults: Vec<(usize, Slot<'static>)>,
}

impl AvroDecoder {
    pub(crate) fn new(schemas: &[SchemaVersion], columns: Columns) -> Result<Self, FormatError> {
        let mut versions = BTreeMap::new();
        let Some(last) = schemas.last() else {
            return Err(FormatError::NoSchema {
                format: Format::Avro,
            });
        };
        let last = AvroSchema::parse(&last.text)?;
        for SchemaVersion { version, text } in schemas {
            let schema = AvroSchema::parse(text)?;
            let mut places = Vec::with_capacity(schema.fields().len());
            for field in schema.fields() {
                let place = columns.schema.index_of(&field.name).ok();
                places.push(place);
                let kind = place.and_then(|place| columns.kinds.get(place));
                let class = schema.class(&field.shape);
                if let Some(kind) = kind
                    && !takes(kind, class)
                {
                    return Err(FormatError::Column {
                        format: Format::Avro,
                        column: field.name.clone(),
                        detail: format!(
                            "its field has {}, which a column of {} does not take; declare another type",
                            class.name(),
                            kind.name()
                        ),
                    });
                }
            }
            let lacking = (0..columns.kinds.len()).filter(|at| !places.contains(&Some(*at)));
            let defaults = lacking
                .filter_map(|at| Some((at, default(&last, &columns, at)?)))
                .collect();
            let read = Version {
                schema,
                places,
                defaults,
            };
            versions.insert(*version, read);
        }
        Ok(Self { columns, versions })
    }

    pub(crate) fn decode(
        &self,
        bodies: &BinaryArray,
        version_of: impl Fn(usize) -> Option<u32>,
    ) -> Result<Decoded, ArrowError> {
        self.columns.decode(bodies, |row, body, slots| {
            let (version, datum) = self.version(body, version_of(row))?;
            for (at, value) in &version.defaults {
                if let Some(slot) = slots.get_mut(*at) {
                    slot.clone_from(value);
                }
            }
            let is_bare = datum.len() == body.len();
            self.read(version, datum, slots)
                .map_err(|reason| match named_schema(body) {
                    Some(_) if is_bare => format!(
                        "the schema that the body names is not known; read without it: {reason}"
                    )
                    .into(),
                    _ => reason,
                })
        })
    }

    /// The schema of a body, and its datum.
    fn version<'a>(
        &self,
        body: &'a [u8],
        stored: Option<u32>,
    ) -> Result<(&Version, &'a [u8]), Bad> {
        if let Some((fingerprint, datum)) = named_schema(body) {
            // Versions that differ in logical types alone have the same one.
            let is_named = |version: &&Version| version.schema.fingerprint == fingerprint;
            let stored = stored.and_then(|stored| self.versions.get(&stored));
            let mut others = self.versions.values().rev();
            if let Some(found) = stored.filter(is_named).or_else(|| others.find(is_named)) {
                return Ok((found, datum));
            }
        }
        let found = match stored {
            Some(version) => self.versions.get(&version),
            None => self.versions.values().next_back(),
        };
        match (found, stored) {
            (Some(version), _) => Ok((version, body)),
            (None, Some(version)) => {
                Err(format!("version {version} of the topic's schema is not known").into())
            }
            (None, None) => Err("the topic has no schema".into()),
        }
    }

    fn read<'a>(
        &self,
        version: &Version,
        datum: &'a [u8],
        slots: &mut [Slot<'a>],
    ) -> Result<(), Bad> {
        let mut cursor = Cursor::new(datum, &version.schema);
        for (field, place) in version.schema.fields().iter().zip(&version.places) {
            let named = |reason: Bad| Bad::Owned(format!("field {}: {reason}", field.name));
            let column =
                place.and_then(|at| Some((self.columns.kinds.get(at)?, slots.get_mut(at)?)));
            let Some((kind, slot)) = column else {
                cursor.skip(&field.shape, 0).map_err(named)?;
                continue;
            };
            let value = cursor.datum(&field.shape, 0).map_err(named)?;
            *slot = fit(kind, value).map_err(named)?;
        }
        match cursor.rest.len() {
            0 => Ok(()),
            left => Err(format!("{left} bytes follow the datum").into()),
        }
    }
}

/// The fingerprint that a body in single-object encoding begins with, and what follows.
fn named_schema(body: &[u8]) -> Option<(u64, &[u8])> {
    let rest = body.strip_prefix(&SINGLE_OBJECT)?;
    let (fingerprint, datum) = rest.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*fingerprint), datum))
}

/// What the last schema says of a column that a datum lacks.
fn default(last: &AvroSchema, columns: &Columns, at: usize) -> Option<Slot<'static>> {
    let mut fields = last.fields().iter();
    let field = fields.find(|field| field.name == columns.name(at))?;
    let kind: &Kind = columns.kinds.get(at)?;
    let bytes = last.default_of(field)?.ok()?;
    let datum = Cursor::new(&bytes, last).datum(&field.shape, 0).ok()?;
    Some(fit(kind, datum).ok()?.into_owned())
}

/// What is left of a datum.
struct Cursor<'a, 's> {
    rest: &'a [u8],
    schema: &'s AvroSchema,
    /// Values without bytes that may still be read: a body can name many of them.
    budget: usize,
    /// Bytes of JSON that may still be made of what is nested.
    text_left: usize,
}

impl<'a, 's> Cursor<'a, 's> {
    fn new(rest: &'a [u8], schema: &'s AvroSchema) -> Self {
        Self {
            rest,
            schema,
            budget: VALUES_WITHOUT_BYTES,
            text_left: nested_text_max(rest.len()),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or("the body ends within a value")?;
        self.rest = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, Bad> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self
                .rest
                .split_first()
                .ok_or("the body ends within a number")?;
            self.rest = rest;
            if shift == 63 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err("a number is longer than 64 bits".into())
    }

    fn int(&mut self) -> Result<i32, Bad> {
        i32::try_from(self.long()?).map_err(|_| "an int is longer than 32 bits".into())
    }

    fn size(&mut self) -> Result<usize, Bad> {
        usize::try_from(self.long()?).map_err(|_| "a length is negative".into())
    }

    fn sized(&mut self) -> Result<&'a [u8], Bad> {
        let size = self.size()?;
        self.take(size)
    }

    fn text(&mut self) -> Result<&'a str, Bad> {
        std::str::from_utf8(self.sized()?).map_err(|_| "a text is not UTF-8".into())
    }

    fn double(&mut self) -> Result<f64, Bad> {
        match self.take(8)?.first_chunk::<8>() {
            Some(bytes) => Ok(f64::from_le_bytes(*bytes)),
            None => Err("the body ends within a double".into()),
        }
    }

    fn float(&mut self) -> Result<f64, Bad> {
        match self.take(4)?.first_chunk::<4>() {
            Some(bytes) => Ok(f32::from_le_bytes(*bytes).into()),
            None => Err("the body ends within a float".into()),
        }
    }

    fn boolean(&mut self) -> Result<bool, Bad> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err("a boolean is neither 0 nor 1".into()),
        }
    }

    fn branch<'u>(&mut self, shapes: &'u [Shape]) -> Result<&'u Shape, Bad> {
        let at = self.size()?;
        let branch = shapes.get(at);
        branch.ok_or_else(|| format!("the union has no branch {at}").into())
    }

    fn symbol(&mut self, symbols: &'s [String]) -> Result<&'s str, Bad> {
        let at = self.size()?;
        let symbol = symbols.get(at).map(String::as_str);
        symbol.ok_or_else(|| format!("the enum has no symbol {at}").into())
    }

    /// Reads a value that takes no bytes.
    fn spend(&mut self) -> Result<(), Bad> {
        self.budget = self
            .budget
            .checked_sub(1)
            .ok_or("it has more values than its size can tell")?;
        Ok(())
    }

    fn fixed(&mut self, size: usize) -> Result<&'a [u8], Bad> {
        if size == 0 {
            self.spend()?;
        }
        self.take(size)
    }

    /// A value as a column takes it; what is nested becomes JSON.
    fn datum(&mut self, shape: &Shape, depth: usize) -> Result<Datum<'a>, Bad> {
        check_depth(depth)?;
        Ok(match shape {
            Shape::Null => {
                self.spend()?;
                Datum::Null
            }
            Shape::Boolean => Datum::Boolean(self.boolean()?),
            Shape::Int => Datum::Integer(self.int()?.into()),
            Shape::Long => Datum::Integer(self.long()?),
            Shape::Float => Datum::Float(self.float()?),
            Shape::Double => Datum::Float(self.double()?),
            Shape::Bytes => Datum::Bytes(self.sized()?.into()),
            Shape::Text => Datum::Text(self.text()?.into()),
            Shape::Date => Datum::Date(self.int()?),
            Shape::Timestamp(units) => Datum::Timestamp(self.long()?.div_euclid(units / 1_000)),
            Shape::Decimal(_, scale, size) => {
                let bytes = match size {
                    Some(size) => self.fixed(*size)?,
                    None => self.sized()?,
                };
                Datum::Decimal(units_of(bytes)?, *scale)
            }
            Shape::Union(shapes) => {
                let branch = self.branch(shapes)?;
                if *branch == Shape::Null {
                    // Its number is its byte.
                    return Ok(Datum::Null);
                }
                if one_of(shapes).is_some() {
                    return self.datum(branch, depth + 1);
                }
                // A union of several is text: that of a text as it is, of all others as JSON.
                match self.datum(branch, depth + 1)? {
                    text @ Datum::Text(_) => text,
                    other => Datum::Text(json_of(&other).into()),
                }
            }
            Shape::Named(at) => {
                let schema = self.schema;
                match schema.named(*at) {
                    Named::Fixed(size) => Datum::Bytes(self.fixed(*size)?.into()),
                    Named::Enum(symbols, _) => {
                        Datum::Text(Cow::Owned(self.symbol(symbols)?.to_owned()))
                    }
                    Named::Record(_) | Named::Open => self.nested(shape, depth)?,
                }
            }
            Shape::Array(_) | Shape::Map(_) => self.nested(shape, depth)?,
        })
    }

    fn nested(&mut self, shape: &Shape, depth: usize) -> Result<Datum<'a>, Bad> {
        let mut out = String::new();
        self.json(shape, depth, &mut out)?;
        self.text_left = self.text_left.saturating_sub(out.len());
        Ok(Datum::Text(out.into()))
    }

    /// Passes over a value that nobody asks for.
    fn skip(&mut self, shape: &Shape, depth: usize) -> Result<(), Bad> {
        check_depth(depth)?;
        let schema = self.schema;
        match shape {
            Shape::Array(items) => self.blocks(|cursor, _| cursor.skip(items, depth + 1)),
            Shape::Map(values) => self.blocks(|cursor, _| {
                cursor.text()?;
                cursor.skip(values, depth + 1)
            }),
            Shape::Named(at) => match schema.named(*at) {
                Named::Record(fields) => {
                    if fields.is_empty() {
                        self.spend()?;
                    }
                    let mut fields = fields.iter();
                    fields.try_for_each(|field| self.skip(&field.shape, depth + 1))
                }
                Named::Enum(symbols, _) => self.symbol(symbols).map(drop),
                Named::Fixed(size) => self.fixed(*size).map(drop),
                Named::Open => Err(OPEN.into()),
            },
            Shape::Union(shapes) => match self.branch(shapes)? {
                // Its number is its byte.
                Shape::Null => Ok(()),
                branch => self.skip(branch, depth + 1),
            },
            plain => self.datum(plain, depth).map(drop),
        }
    }

    fn json(&mut self, shape: &Shape, depth: usize, out: &mut String) -> Result<(), Bad> {
        check_depth(depth)?;
        if out.len() > self.text_left {
            return Err(NESTED_TOO_LARGE.into());
        }
        let schema = self.schema;
        let comma = |is_first: bool| if is_first { "" } else { "," };
        match shape {
            Shape::Array(items) => {
                out.push('[');
                self.blocks(|cursor, is_first| {
                    out.push_str(comma(is_first));
                    cursor.json(items, depth + 1, out)
                })?;
                out.push(']');
            }
            Shape::Map(values) => {
                out.push('{');
                self.blocks(|cursor, is_first| {
                    out.push_str(comma(is_first));
                    put_json_text(out, cursor.text()?);
                    out.push(':');
                    cursor.json(values, depth + 1, out)
                })?;
                out.push('}');
            }
            Shape::Named(at) => match schema.named(*at) {
                Named::Record(fields) => {
                    if fields.is_empty() {
                        self.spend()?;
                    }
                    out.push('{');
                    for (at, field) in fields.iter().enumerate() {
                        if at > 0 {
                            out.push(',');
                        }
                        put_json_text(out, &field.name);
                        out.push(':');
                        self.json(&field.shape, depth + 1, out)?;
                    }
                    out.push('}');
                }
                Named::Enum(symbols, _) => put_json_text(out, self.symbol(symbols)?),
                Named::Fixed(size) => put_json_bytes(out, self.fixed(*size)?),
                Named::Open => return Err(OPEN.into()),
            },
            Shape::Union(shapes) => match self.branch(shapes)? {
                Shape::Null => out.push_str("null"),
                branch => self.json(branch, depth + 1, out)?,
            },
            plain => {
                let datum = self.datum(plain, depth)?;
                out.push_str(&json_of(&datum));
            }
        }
        Ok(())
    }

    /// The items of an array or map: blocks with a count, and a size where it is negative.
    fn blocks(
        &mut self,
        mut item: impl FnMut(&mut Self, bool) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        let mut is_first = true;
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                item(self, std::mem::take(&mut is_first))?;
            }
        }
    }
}

/// What is wrong with a schema of which a type has no definition.
const OPEN: &str = "its schema has a type without definition";

/// How many values that take no bytes a body may have beside those that do.
const VALUES_WITHOUT_BYTES: usize = 1024;

fn check_depth(depth: usize) -> Result<(), Bad> {
    match depth > DEPTH_MAX {
        true => Err(format!("it is nested deeper than {DEPTH_MAX} levels").into()),
        false => Ok(()),
    }
}

fn json_of(datum: &Datum<'_>) -> String {
    let mut out = String::new();
    match datum {
        Datum::Null => out.push_str("null"),
        Datum::Boolean(value) => out.push_str(&value.to_string()),
        Datum::Integer(value) | Datum::Timestamp(value) => out.push_str(&value.to_string()),
        Datum::Date(value) => out.push_str(&value.to_string()),
        Datum::Float(value) => put_json_float(&mut out, *value),
        Datum::Decimal(units, scale) => out.push_str(&format!("{units}e-{scale}")),
        Datum::Text(text) => put_json_text(&mut out, text),
        Datum::Bytes(bytes) => put_json_bytes(&mut out, bytes),
    }
    out
}

/// A number in two's complement, its most significant byte first.
fn units_of(bytes: &[u8]) -> Result<i128, Bad> {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut units: i128 = if negative { -1 } else { 0 };
    for (left, byte) in (0..bytes.len()).rev().zip(bytes) {
        let is_sign = *byte == if negative { 0xff } else { 0 };
        if left >= 16 && !is_sign {
            return Err("a decimal has more than 38 digits".into());
        }
        units = (units << 8) | i128::from(*byte);
    }
    if (units < 0) == negative {
        Ok(units)
    } else {
        Err("a decimal has more than 38 digits".into())
    }
}
