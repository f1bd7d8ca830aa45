//! The seam of users' functions: what one tells of itself, and how the query engine calls it.
//!
//! A function in Rust implements [`UserScalar`] or [`UserAggregate`] in a file beside this one and is listed in
//! [`crate::function::all`]; a host of WASM modules would implement the same two traits, with a module's instance behind
//! each call, and be listed there as well. What it gives is not believed: a column of another length or type is an
//! error that names the function.
//!
//! **Invariant.** Equal arguments give an equal value, at any time and in any batch, since a continuous query that replays
//! must compute the same. An aggregate need not take rows back: where rows come and go, its value is computed
//! anew of the arguments that are there.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

use crate::batch::latest::external;
use crate::error::SqlError;

/// What a function is called, takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Name, in lower case; no other function has it.
    pub name: String,
    /// Types of the arguments; the engine casts to them where that loses nothing.
    pub arguments: Vec<DataType>,
    /// Type of the value, which may be NULL.
    pub returns: DataType,
}

/// Why a call failed: what, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("function {function} failed: {what}")]
pub struct CallError {
    /// The function.
    pub function: String,
    /// What it said.
    pub what: String,
}

impl From<CallError> for DataFusionError {
    fn from(error: CallError) -> Self {
        Self::External(Box::new(error))
    }
}

/// A function from the values of a row to a value.
pub trait UserScalar: fmt::Debug + Send + Sync {
    /// What it is called, takes and gives.
    fn shape(&self) -> &Shape;

    /// Computes a column of so many rows from the columns of the arguments.
    ///
    /// # Errors
    /// [`CallError`] when it can not; the statement or query ends with it.
    fn call(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef, CallError>;
}

/// A function from the rows of a group to a value.
pub trait UserAggregate: fmt::Debug + Send + Sync {
    /// What it is called, takes and gives.
    fn shape(&self) -> &Shape;

    /// Types of the values that a group rests as.
    fn state(&self) -> Vec<DataType>;

    /// A group without rows.
    fn start(&self) -> Box<dyn RunningAggregate>;
}

/// An aggregate over the rows of one group so far.
pub trait RunningAggregate: fmt::Debug + Send + Sync {
    /// Takes rows: the columns of the arguments.
    ///
    /// # Errors
    /// [`CallError`] when it can not.
    fn add(&mut self, arguments: &[ArrayRef]) -> Result<(), CallError>;

    /// Takes what others rested as, one row each.
    ///
    /// # Errors
    /// [`CallError`] when it can not.
    fn merge(&mut self, states: &[ArrayRef]) -> Result<(), CallError>;

    /// What it rests as.
    ///
    /// # Errors
    /// [`CallError`] when it can not.
    fn rest(&self) -> Result<Vec<ScalarValue>, CallError>;

    /// Its value.
    ///
    /// # Errors
    /// [`CallError`] when it has none.
    fn value(&self) -> Result<ScalarValue, CallError>;

    /// Memory that it takes, about.
    fn bytes(&self) -> usize;
}

/// The function as the query engine has it.
#[must_use]
pub fn scalar(function: Arc<dyn UserScalar>) -> ScalarUDF {
    let arguments = function.shape().arguments.clone();
    ScalarUDF::from(Called {
        signature: Signature::exact(arguments, Volatility::Immutable),
        function,
    })
}

/// The aggregate as the query engine has it.
#[must_use]
pub fn aggregate(function: Arc<dyn UserAggregate>) -> AggregateUDF {
    let arguments = function.shape().arguments.clone();
    AggregateUDF::from(Called {
        signature: Signature::exact(arguments, Volatility::Immutable),
        function,
    })
}

#[derive(Debug)]
struct Called<F: ?Sized> {
    signature: Signature,
    function: Arc<F>,
}

/// What both kinds of functions have.
trait Shaped {
    fn its_shape(&self) -> &Shape;
}

impl Shaped for dyn UserScalar {
    fn its_shape(&self) -> &Shape {
        self.shape()
    }
}

impl Shaped for dyn UserAggregate {
    fn its_shape(&self) -> &Shape {
        self.shape()
    }
}

// Names are unique among functions, so a name stands for the function.
impl<F: Shaped + ?Sized> PartialEq for Called<F> {
    fn eq(&self, other: &Self) -> bool {
        self.function.its_shape() == other.function.its_shape()
    }
}

impl<F: Shaped + ?Sized> Eq for Called<F> {}

impl<F: Shaped + ?Sized> Hash for Called<F> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.its_shape().name.hash(state);
    }
}

fn wrong(shape: &Shape, what: String) -> DataFusionError {
    CallError {
        function: shape.name.clone(),
        what,
    }
    .into()
}

impl ScalarUDFImpl for Called<dyn UserScalar> {
    fn name(&self) -> &str {
        &self.function.shape().name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> EngineResult<DataType> {
        Ok(self.function.shape().returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let rows = args.number_rows;
        let arguments = args
            .args
            .into_iter()
            .map(|argument| argument.into_array(rows))
            .collect::<EngineResult<Vec<_>>>()?;
        let column = self.function.call(&arguments, rows)?;
        let shape = self.function.shape();
        if column.len() != rows || *column.data_type() != shape.returns {
            let (length, kind) = (column.len(), column.data_type());
            let what = format!(
                "it gave {length} values of {kind}, and {rows} of {} were asked for; mend the function",
                shape.returns
            );
            return Err(wrong(shape, what));
        }
        Ok(ColumnarValue::Array(column))
    }
}

impl AggregateUDFImpl for Called<dyn UserAggregate> {
    fn name(&self) -> &str {
        &self.function.shape().name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> EngineResult<DataType> {
        Ok(self.function.shape().returns.clone())
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> EngineResult<Box<dyn Accumulator>> {
        if args.is_distinct {
            // The engine leaves it to the function, which sees a part of the rows only.
            let name = &self.function.shape().name;
            return Err(external(SqlError::invalid(
                format!("DISTINCT is not taken in {name}"),
                format!("write SELECT {name}(…) FROM (SELECT DISTINCT … FROM topic) AS t"),
            )));
        }
        Ok(Box::new(Running {
            shape: self.function.shape().clone(),
            states: self.function.state(),
            aggregate: self.function.start(),
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> EngineResult<Vec<FieldRef>> {
        let states = self.function.state().into_iter().enumerate();
        let fields = states.map(|(index, kind)| {
            let name = format!("{}[{index}]", args.name);
            Arc::new(Field::new(name, kind, true))
        });
        Ok(fields.collect())
    }
}

#[derive(Debug)]
struct Running {
    shape: Shape,
    states: Vec<DataType>,
    aggregate: Box<dyn RunningAggregate>,
}

impl Accumulator for Running {
    fn update_batch(&mut self, values: &[ArrayRef]) -> EngineResult<()> {
        Ok(self.aggregate.add(values)?)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> EngineResult<()> {
        Ok(self.aggregate.merge(states)?)
    }

    fn state(&mut self) -> EngineResult<Vec<ScalarValue>> {
        let state = self.aggregate.rest()?;
        let found: Vec<DataType> = state.iter().map(ScalarValue::data_type).collect();
        if found != self.states {
            let what = format!(
                "it rests as {found:?}, and said {:?}; mend the function",
                self.states
            );
            return Err(wrong(&self.shape, what));
        }
        Ok(state)
    }

    fn evaluate(&mut self) -> EngineResult<ScalarValue> {
        let value = self.aggregate.value()?;
        if value.data_type() != self.shape.returns {
            let what = format!(
                "its value is {}, and said {}; mend the function",
                value.data_type(),
                self.shape.returns
            );
            return Err(wrong(&self.shape, what));
        }
        Ok(value)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.aggregate.bytes()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use datafusion::config::ConfigOptions;

    use super::*;

    /// Gives whatever it holds.
    #[derive(Debug)]
    struct Given {
        shape: Shape,
        column: Result<ArrayRef, CallError>,
    }

    impl UserScalar for Given {
        fn shape(&self) -> &Shape {
            &self.shape
        }

        fn call(&self, _arguments: &[ArrayRef], _rows: usize) -> Result<ArrayRef, CallError> {
            self.column.clone()
        }
    }

    fn called(column: Result<ArrayRef, CallError>) -> EngineResult<ColumnarValue> {
        let shape = Shape {
            name: "given".to_owned(),
            arguments: Vec::new(),
            returns: DataType::Int64,
        };
        let function = scalar(Arc::new(Given { shape, column }));
        function.invoke_with_args(ScalarFunctionArgs {
            args: Vec::new(),
            arg_fields: Vec::new(),
            number_rows: 2,
            return_field: Arc::new(Field::new("given", DataType::Int64, true)),
            config_options: Arc::new(ConfigOptions::default()),
        })
    }

    #[test]
    fn a_function_that_gives_what_it_did_not_say_is_named() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        assert!(called(Ok(Arc::clone(&numbers))).is_ok());
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["1", "2"]));
        let failed = CallError {
            function: "given".to_owned(),
            what: "the module trapped; see its log".to_owned(),
        };
        for (column, expected) in [
            (
                Ok(numbers.slice(0, 1)),
                "function given failed: it gave 1 values of Int64",
            ),
            (Ok(texts), "function given failed: it gave 2 values of Utf8"),
            (Err(failed), "function given failed: the module trapped"),
        ] {
            let error = called(column).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
