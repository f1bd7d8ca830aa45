//! A topic as a table: its declared columns, then the system columns that every topic has.
//!
//! System columns tell where a message lies and what came with it; all begin with `_`:
//!
//! | column | type | meaning |
//! |---|---|---|
//! | `_queue` | INT | queue |
//! | `_offset` | BIGINT | place in the queue |
//! | `_key` | VARCHAR? | routing key, NULL when it is not UTF-8 |
//! | `_tag` | VARCHAR? | tag |
//! | `_keys` | VARCHAR\[\] | look-up keys |
//! | `_message_id` | VARCHAR | the producer's id |
//! | `_stored_at` | TIMESTAMP | when the broker took it, UTC |
//! | `_born_at` | TIMESTAMP | when the producer made it, UTC |
//! | `_properties` | MAP(VARCHAR, VARCHAR) | user properties; a value that is not UTF-8 is NULL |
//! | `_body` | VARCHAR? | the body, NULL for a tombstone or when it is not UTF-8; of Avro and Protobuf in hex digits; of a change of Debezium the row |
//! | `_decode_error` | VARCHAR? | why the body does not parse as the declared columns |
//!
//! A topic without declared columns has the system columns only. All timestamps are UTC, in milliseconds,
//! without zone.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::sqlparser::ast::{
    DataType as SqlType, ExactNumberInfo, ExprWithAlias, TimezoneInfo,
};

use crate::computed::Check;
use crate::error::SqlError;
use crate::plan::chain::{no_function_of_the_row, simplified};
use crate::plan::exact;
use crate::runtime;
use crate::statement::{parse_expression, parse_type};
use crate::topic::{ColumnSpec, TopicInfo};

/// Name of the column that says why a body does not parse.
pub const DECODE_ERROR: &str = "_decode_error";

/// The body as it lies in the log.
pub(crate) const BODY: &str = "_body";

/// Type of every time in a table.
#[must_use]
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, None)
}

pub(crate) fn property_fields() -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
    ])
}

pub(crate) fn properties_entry() -> Field {
    Field::new("entries", DataType::Struct(property_fields()), false)
}

pub(crate) fn keys_element() -> Field {
    Field::new("item", DataType::Utf8, true)
}

static SYSTEM: LazyLock<Vec<Field>> = LazyLock::new(|| {
    vec![
        Field::new("_queue", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_key", DataType::Utf8, true),
        Field::new("_tag", DataType::Utf8, true),
        Field::new("_keys", DataType::List(Arc::new(keys_element())), true),
        Field::new("_message_id", DataType::Utf8, true),
        Field::new("_stored_at", timestamp(), false),
        Field::new("_born_at", timestamp(), false),
        Field::new(
            "_properties",
            DataType::Map(Arc::new(properties_entry()), false),
            true,
        ),
        Field::new(BODY, DataType::Utf8, true),
        Field::new(DECODE_ERROR, DataType::Utf8, true),
    ]
});

/// The system columns, in order.
#[must_use]
pub fn system_columns() -> &'static [Field] {
    &SYSTEM
}

/// Whether a name is a system column's.
#[must_use]
pub fn is_system_column(name: &str) -> bool {
    SYSTEM.iter().any(|field| field.name() == name)
}

/// Whether a reading of these columns, places in a topic's table, answers rows whose body does not parse.
///
/// Who reads declared columns, or none at all, as `count(*)` does, asks for rows, and what does not parse is none. Who reads system columns
/// alone asks for messages, and who reads the body or why it does not parse means these, too.
pub(crate) fn shows_undecodable(schema: &Schema, declared: usize, columns: &[usize]) -> bool {
    let names = columns.iter().map(|&at| schema.field(at).name().as_str());
    let of_system = columns.iter().zip(names).filter(|(at, _)| **at >= declared);
    let is_told = of_system
        .clone()
        .any(|(_, name)| matches!(name, DECODE_ERROR | BODY));
    is_told || (!columns.is_empty() && of_system.count() == columns.len())
}

/// The columns of a topic's table: declared ones, then system columns.
///
/// # Errors
/// [`SqlError::Invalid`] when a declared type or computed column can not be read, which `CREATE TOPIC`
/// refuses, so it happens only to declarations that came another way.
pub fn table_schema(topic: &TopicInfo) -> Result<SchemaRef, SqlError> {
    Ok(Arc::clone(&Table::of(&topic.columns)?.schema))
}

/// Checks a declaration as [`table_schema`] would meet it.
///
/// # Errors
/// [`SqlError::Invalid`], also for an expression that does not follow from the row, so that a replay would compute another value;
/// [`SqlError::Unknown`] for a column that an expression names in vain.
pub fn check_columns(columns: &[ColumnSpec]) -> Result<SchemaRef, SqlError> {
    let table = Table::of(columns)?;
    let names = DFSchema::try_from(table.input.as_ref().clone())?;
    for text in columns
        .iter()
        .filter_map(|column| column.expression.as_ref())
    {
        let expression = named_expression(text, &names);
        let expression = expression.map_err(SqlError::without_position)?;
        if let Some((what, instead)) = no_function_of_the_row(&expression)? {
            return Err(SqlError::invalid(
                format!("a computed column does not take {what}"),
                instead,
            ));
        }
    }
    Ok(table.schema)
}

/// A declared topic, ready to be read.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Declared columns, then system columns.
    pub(crate) schema: SchemaRef,
    /// Columns read from the body.
    pub(crate) body: SchemaRef,
    /// What expressions see: `body`, then the system columns but the decode error.
    pub(crate) input: SchemaRef,
    /// For each declared column its expression over `input`, if it is computed.
    pub(crate) computed: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// Those that may fail, in the order of their places.
    pub(crate) checks: Vec<Check>,
}

impl Table {
    pub(crate) fn of(columns: &[ColumnSpec]) -> Result<Self, SqlError> {
        let mut body = Vec::new();
        for column in columns.iter().filter(|column| column.expression.is_none()) {
            let data_type = arrow_type(&parse_type(&column.sql_type)?)?;
            body.push(Field::new(&column.name, data_type, true));
        }
        let before_error = SYSTEM.len() - 1;
        let input: Vec<Field> = body
            .iter()
            .chain(&SYSTEM[..before_error])
            .cloned()
            .collect();
        let input = Arc::new(Schema::new(input));
        let names = DFSchema::try_from(input.as_ref().clone())?;

        let mut fields = Vec::with_capacity(columns.len() + SYSTEM.len());
        let mut computed = Vec::with_capacity(columns.len());
        for column in columns {
            let Some(text) = &column.expression else {
                let data_type = arrow_type(&parse_type(&column.sql_type)?)?;
                fields.push(Field::new(&column.name, data_type, true));
                computed.push(None);
                continue;
            };
            // A position would count in the expression, not in the statement.
            let planned = plan_expression(text, &names);
            let mut expression = planned.map_err(SqlError::without_position)?;
            let mut data_type = expression.data_type(&input)?;
            if !column.sql_type.is_empty() {
                data_type = arrow_type(&parse_type(&column.sql_type)?)?;
                expression = datafusion::physical_expr::expressions::cast(
                    expression,
                    &input,
                    data_type.clone(),
                )?;
            } else if matches!(data_type, DataType::Timestamp(_, _)) {
                data_type = timestamp();
                expression = datafusion::physical_expr::expressions::cast(
                    expression,
                    &input,
                    data_type.clone(),
                )?;
            }
            fields.push(Field::new(&column.name, data_type, true));
            computed.push(Some(expression));
        }
        fields.extend(SYSTEM.iter().cloned());
        let body = Schema::new(body);
        let checks = computed
            .iter()
            .enumerate()
            .filter_map(|(place, expression)| {
                Check::of(place, expression.as_ref()?, &input, &body)
            });
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            checks: checks.collect(),
            body: Arc::new(body),
            input,
            computed,
        })
    }
}

fn plan_expression(text: &str, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, SqlError> {
    let expression = named_expression(text, schema)?;
    let expression = exact::compared_in(expression, schema)?.data;
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone()));
    let typed = ExprSimplifier::new(context.build()).coerce(expression, schema)?;
    let written_out = simplified(&typed, schema)?;
    Ok(create_physical_expr(
        &written_out,
        schema,
        &ExecutionProps::new(),
    )?)
}

/// An expression with its names resolved.
fn named_expression(text: &str, schema: &DFSchema) -> Result<Expr, SqlError> {
    let mut expr = parse_expression(text)?;
    exact::written(&mut expr);
    let expr = ExprWithAlias { expr, alias: None };
    Ok(runtime::expressions().create_logical_expr_from_sql_expr(expr, schema)?)
}

/// The SQL name of a type that a table has.
#[must_use]
pub fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "VARCHAR".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Binary => "BYTES".to_owned(),
        DataType::Timestamp(_, _) => "TIMESTAMP".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::List(field) => format!("{}[]", sql_type(field.data_type())),
        DataType::Map(_, _) => "MAP(VARCHAR, VARCHAR)".to_owned(),
        other => other.to_string(),
    }
}

/// Most digits of a decimal.
const DECIMAL_PRECISION_MAX: u64 = 38;

/// The Arrow type of a SQL type.
///
/// # Errors
/// [`SqlError::Invalid`] for types that a column can not have.
pub fn arrow_type(sql: &SqlType) -> Result<DataType, SqlError> {
    Ok(match sql {
        SqlType::Varchar(_)
        | SqlType::CharacterVarying(_)
        | SqlType::CharVarying(_)
        | SqlType::Char(_)
        | SqlType::Character(_)
        | SqlType::Text
        | SqlType::String(_) => DataType::Utf8,
        SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) | SqlType::Int32 => {
            DataType::Int32
        }
        SqlType::BigInt(_) | SqlType::Int8(_) | SqlType::Int64 => DataType::Int64,
        SqlType::SmallInt(_) | SqlType::Int2(_) | SqlType::Int16 => DataType::Int16,
        SqlType::TinyInt(_) => DataType::Int8,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 | SqlType::Float64 => {
            DataType::Float64
        }
        SqlType::Float(_) | SqlType::Real | SqlType::Float4 | SqlType::Float32 => DataType::Float32,
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone)
        | SqlType::TimestampNtz(_)
        | SqlType::Datetime(_) => timestamp(),
        SqlType::Date | SqlType::Date32 => DataType::Date32,
        SqlType::Decimal(info) | SqlType::Numeric(info) | SqlType::Dec(info) => decimal(sql, info)?,
        SqlType::Bytes(_)
        | SqlType::Varbinary(_)
        | SqlType::Binary(_)
        | SqlType::Bytea
        | SqlType::Blob(_) => DataType::Binary,
        other => {
            return Err(SqlError::invalid(
                format!("{other} is not a type of a column"),
                "use VARCHAR, INT, BIGINT, SMALLINT, DOUBLE, FLOAT, BOOLEAN, TIMESTAMP, DATE, DECIMAL(p, s) or BYTES",
            ));
        }
    })
}

fn decimal(sql: &SqlType, info: &ExactNumberInfo) -> Result<DataType, SqlError> {
    let (precision, scale) = match *info {
        ExactNumberInfo::None => (DECIMAL_PRECISION_MAX, 10),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    let refuse = || {
        SqlError::invalid(
            format!("{sql} is not a decimal that a column can have"),
            format!(
                "use 1 to {DECIMAL_PRECISION_MAX} digits, of which none or some follow the point"
            ),
        )
    };
    let fits = (1..=DECIMAL_PRECISION_MAX).contains(&precision)
        && u64::try_from(scale).is_ok_and(|scale| scale <= precision);
    if !fits {
        return Err(refuse());
    }
    let precision = u8::try_from(precision).map_err(|_| refuse())?;
    let scale = i8::try_from(scale).map_err(|_| refuse())?;
    Ok(DataType::Decimal128(precision, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, sql_type: &str, expression: Option<&str>) -> ColumnSpec {
        ColumnSpec {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: expression.map(str::to_owned),
        }
    }

    #[test]
    fn every_named_type_has_its_arrow_type() {
        for (sql, expected) in [
            ("VARCHAR", DataType::Utf8),
            ("VARCHAR(20)", DataType::Utf8),
            ("TEXT", DataType::Utf8),
            ("STRING", DataType::Utf8),
            ("INT", DataType::Int32),
            ("INTEGER", DataType::Int32),
            ("BIGINT", DataType::Int64),
            ("SMALLINT", DataType::Int16),
            ("DOUBLE", DataType::Float64),
            ("DOUBLE PRECISION", DataType::Float64),
            ("FLOAT", DataType::Float32),
            ("REAL", DataType::Float32),
            ("BOOLEAN", DataType::Boolean),
            ("TIMESTAMP", timestamp()),
            ("DATE", DataType::Date32),
            ("DECIMAL(10, 2)", DataType::Decimal128(10, 2)),
            ("BYTES", DataType::Binary),
            ("VARBINARY", DataType::Binary),
        ] {
            let parsed = parse_type(sql).unwrap();
            assert_eq!(arrow_type(&parsed).unwrap(), expected, "{sql}");
            // A declaration is stored as the parser prints it, so that must read back alike.
            let again = parse_type(&parsed.to_string()).unwrap();
            assert_eq!(arrow_type(&again).unwrap(), expected, "{parsed}");
        }
        assert!(arrow_type(&parse_type("TIMESTAMP WITH TIME ZONE").unwrap()).is_err());
        assert!(arrow_type(&parse_type("DECIMAL(99, 2)").unwrap()).is_err());
    }

    #[test]
    fn declared_columns_come_first_and_computed_ones_have_the_type_of_their_expression() {
        let schema = check_columns(&[
            column("delay", "DOUBLE", None),
            column("late", "", Some("delay > 15")),
            column("rounded", "BIGINT", Some("delay * 2")),
        ])
        .unwrap();
        let types: Vec<&DataType> = schema
            .fields()
            .iter()
            .take(3)
            .map(|f| f.data_type())
            .collect();
        assert_eq!(
            types,
            [&DataType::Float64, &DataType::Boolean, &DataType::Int64]
        );
        assert_eq!(schema.field(3).name(), "_queue");
        let error = check_columns(&[
            column("late", "", Some("dealy > 15")),
            column("delay", "DOUBLE", None),
        ]);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("did you mean delay?")
        );
    }
}
