//! The seam of scalar functions: what one is made of, and how the query engine calls it.

use std::hash::{Hash, Hasher};

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};

/// Computes a column from the columns of the arguments; all have as many rows as are told.
pub type Compute = fn(&[ArrayRef], usize) -> Result<ArrayRef, DataFusionError>;

/// A function from the values of a row to a value; equal arguments always give an equal value.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// Name, in lower case.
    pub name: &'static str,
    /// What it takes; the engine casts arguments to it where that loses nothing.
    pub arguments: TypeSignature,
    /// Type of its value, which may be NULL.
    pub returns: DataType,
    /// How it is computed, a batch at a time.
    pub compute: Compute,
}

impl Scalar {
    /// The function as the query engine has it.
    #[must_use]
    pub fn into_udf(self) -> ScalarUDF {
        ScalarUDF::from(Called {
            signature: Signature::new(self.arguments.clone(), Volatility::Immutable),
            scalar: self,
        })
    }
}

#[derive(Debug)]
struct Called {
    scalar: Scalar,
    signature: Signature,
}

// Names are unique among functions, so a name stands for the function.
impl PartialEq for Called {
    fn eq(&self, other: &Self) -> bool {
        self.scalar.name == other.scalar.name
    }
}

impl Eq for Called {}

impl Hash for Called {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.scalar.name.hash(state);
    }
}

impl ScalarUDFImpl for Called {
    fn name(&self) -> &str {
        self.scalar.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> EngineResult<DataType> {
        Ok(self.scalar.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args
            .args
            .into_iter()
            .map(|argument| argument.into_array(rows))
            .collect::<EngineResult<Vec<_>>>()?;
        (self.scalar.compute)(&arrays, rows).map(ColumnarValue::Array)
    }
}
