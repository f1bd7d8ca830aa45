//! A value that no rule of the engine sees through, for where one would make something wrong of it.

use std::sync::LazyLock;

use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The first of some values, behind a function that answers it whatever the others are.
pub(super) fn unseen(values: Vec<Expr>) -> Expr {
    FIRST.call(values)
}

static FIRST: LazyLock<ScalarUDF> = LazyLock::new(|| {
    ScalarUDF::new_from_impl(First {
        signature: Signature::variadic_any(Volatility::Immutable),
    })
});

#[derive(Debug, PartialEq, Eq, Hash)]
struct First {
    signature: Signature,
}

impl ScalarUDFImpl for First {
    fn name(&self) -> &'static str {
        "first_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        arguments.first().cloned().ok_or_else(none)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        args.args.into_iter().next().ok_or_else(none)
    }
}

fn none() -> DataFusionError {
    DataFusionError::Internal("a value is missing".to_owned())
}
