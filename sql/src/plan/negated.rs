//! `-x` of a value as `-x` of a column.
//!
//! The engine negates a column by one piece of code and a single value, which stands for all rows, by another that takes no NULL of a
//! decimal and no least whole number. A single value is a column of one row here: NULL stays NULL, and whole numbers wrap around as in all arithmetic.

use std::sync::LazyLock;

use arrow::compute::kernels::numeric::neg_wrapping;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// Negates so in all of a plan.
pub(crate) fn plain(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let plain = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(negated(expr)?.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(plain.data)
}

/// Negates so in an expression.
pub(crate) fn negated(expr: Expr) -> EngineResult<Transformed<Expr>> {
    expr.transform_up(|expr| match expr {
        Expr::Negative(of) => Ok(Transformed::yes(NEGATED.call(vec![*of]))),
        other => Ok(Transformed::no(other)),
    })
}

static NEGATED: LazyLock<ScalarUDF> = LazyLock::new(|| {
    ScalarUDF::new_from_impl(Negated {
        signature: Signature::any(1, Volatility::Immutable),
    })
});

#[derive(Debug, PartialEq, Eq, Hash)]
struct Negated {
    signature: Signature,
}

impl ScalarUDFImpl for Negated {
    fn name(&self) -> &'static str {
        "negated"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> EngineResult<DataType> {
        match arguments {
            [kind]
                if kind.is_null()
                    || kind.is_signed_integer()
                    || kind.is_floating()
                    || kind.is_decimal()
                    || matches!(kind, DataType::Interval(_) | DataType::Duration(_)) =>
            {
                Ok(kind.clone())
            }
            _ => plan_err!("- is of numbers and intervals"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let negated = |values: &dyn arrow::array::Array| neg_wrapping(values);
        match args.args.as_slice() {
            [of] if of.data_type().is_null() => Ok(of.clone()),
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(negated(values)?)),
            [ColumnarValue::Scalar(value)] => {
                let values = negated(&value.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                    &values, 0,
                )?))
            }
            _ => plan_err!("- is of one value"),
        }
    }
}
