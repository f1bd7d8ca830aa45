//! JSON within a text: for bodies of topics without columns, and for properties.
//!
//! | function | answers |
//! |---|---|
//! | `json_get_str(json, key, …)` | the text at the path, NULL when it is none |
//! | `json_get_int`, `json_get_float`, `json_get_bool` | the number or truth at the path, NULL when it is none |
//! | `json_get_json`, `json -> key` | what lies at the path, as JSON |
//! | `json_as_text`, `json ->> key` | the same, but a text without its quotes, and NULL for `null` |
//! | `json_length(json, …)` | members of the object or array at the path |
//! | `json_contains(json, key, …)` | whether there is anything at the path |
//!
//! Parts are answered as they are written, whitespace apart: numbers keep their digits, members their order.
//! A path is a list of keys of objects (VARCHAR) and places in arrays (BIGINT, from 0). What is no JSON, and what is
//! not there, is NULL. The names are those of the crate `datafusion-functions-json`, which would change the features
//! of packages that everything else is built on.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Float64Array, Int64Array, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, TypeSignature};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::function::json_text::{Json, Kind};
use crate::function::scalar::{Compute, Scalar};

/// All of them.
#[must_use]
pub fn functions() -> Vec<Scalar> {
    let function = |name, returns, compute: Compute| Scalar {
        name,
        arguments: TypeSignature::VariadicAny,
        returns,
        compute,
    };
    vec![
        function("json_get_str", DataType::Utf8, |arguments, rows| {
            let texts = found(arguments, rows, |json| {
                (json.kind() == Kind::Text).then(|| json.text())?
            })?;
            Ok(Arc::new(StringArray::from(texts)))
        }),
        function("json_get_int", DataType::Int64, |arguments, rows| {
            let numbers = found(arguments, rows, |json| json.whole())?;
            Ok(Arc::new(Int64Array::from(numbers)))
        }),
        function("json_get_float", DataType::Float64, |arguments, rows| {
            let numbers = found(arguments, rows, |json| json.float())?;
            Ok(Arc::new(Float64Array::from(numbers)))
        }),
        function("json_get_bool", DataType::Boolean, |arguments, rows| {
            let truths = found(arguments, rows, |json| json.truth())?;
            Ok(Arc::new(BooleanArray::from(truths)))
        }),
        function(GET_JSON, DataType::Utf8, |arguments, rows| {
            let texts = found(arguments, rows, |json| Some(json.written()))?;
            Ok(Arc::new(StringArray::from(texts)))
        }),
        function(AS_TEXT, DataType::Utf8, |arguments, rows| {
            let texts = found(arguments, rows, |json| json.shown())?;
            Ok(Arc::new(StringArray::from(texts)))
        }),
        function("json_length", DataType::Int64, |arguments, rows| {
            let lengths = found(arguments, rows, |json| {
                let length = match json.kind() {
                    Kind::Array => json.items()?.count(),
                    Kind::Object => {
                        let names = json.members()?.map(|(name, _)| name.text());
                        names.collect::<BTreeSet<_>>().len()
                    }
                    _ => return None,
                };
                i64::try_from(length).ok()
            })?;
            Ok(Arc::new(Int64Array::from(lengths)))
        }),
        function("json_contains", DataType::Boolean, |arguments, rows| {
            let found = each(arguments, rows, |found| Some(found.is_some()))?;
            Ok(Arc::new(BooleanArray::from(found)))
        }),
    ]
}

const GET_JSON: &str = "json_get_json";
const AS_TEXT: &str = "json_as_text";

/// One step of a path.
enum Step {
    Key(ArrayRef),
    Place(ArrayRef),
}

/// What `read` makes of the value at the path, row by row.
fn found<T>(
    arguments: &[ArrayRef],
    rows: usize,
    read: impl Fn(Json<'_>) -> Option<T>,
) -> Result<Vec<Option<T>>, DataFusionError> {
    each(arguments, rows, |found| read(found?))
}

/// What `read` makes of what is found at the path, if anything is, row by row; NULL where there is no JSON.
fn each<T>(
    arguments: &[ArrayRef],
    rows: usize,
    read: impl Fn(Option<Json<'_>>) -> Option<T>,
) -> Result<Vec<Option<T>>, DataFusionError> {
    let Some((json, path)) = arguments.split_first() else {
        return Err(DataFusionError::Plan(
            "a JSON function takes a text and a path; write json_get_str(text, 'key')".to_owned(),
        ));
    };
    let json = cast(json, &DataType::Utf8)?;
    let json = json.as_string::<i32>();
    let steps = path.iter().map(step).collect::<Result<Vec<_>, _>>()?;
    let values = (0..rows).map(|row| {
        if json.is_null(row) {
            return None;
        }
        let whole = Json::of(json.value(row))?;
        read(steps.iter().try_fold(whole, |at, step| match step {
            Step::Key(keys) => {
                let keys = keys.as_string::<i32>();
                at.member(keys.is_valid(row).then(|| keys.value(row))?)
            }
            Step::Place(places) => {
                let places = places.as_primitive::<Int64Type>();
                let place = places.is_valid(row).then(|| places.value(row))?;
                at.place(usize::try_from(place).ok()?)
            }
        }))
    });
    Ok(values.collect())
}

fn step(argument: &ArrayRef) -> Result<Step, DataFusionError> {
    Ok(if argument.data_type().is_integer() {
        Step::Place(cast(argument, &DataType::Int64)?)
    } else {
        Step::Key(cast(argument, &DataType::Utf8)?)
    })
}

/// Plans `json -> key` and `json ->> key`.
#[derive(Debug)]
pub struct Arrows;

impl ExprPlanner for Arrows {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        _schema: &DFSchema,
    ) -> EngineResult<PlannerResult<RawBinaryExpr>> {
        let name = match expr.op {
            BinaryOperator::Arrow => GET_JSON,
            BinaryOperator::LongArrow => AS_TEXT,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let function = functions()
            .into_iter()
            .find(|function| function.name == name);
        let function =
            function.ok_or_else(|| DataFusionError::Plan(format!("there is no {name}")))?;
        Ok(PlannerResult::Planned(Expr::ScalarFunction(
            ScalarFunction::new_udf(Arc::new(function.into_udf()), vec![expr.left, expr.right]),
        )))
    }
}
