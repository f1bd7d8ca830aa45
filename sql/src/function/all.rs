//! The list of our functions, which every session knows.

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use crate::function::{json, queue};

/// All functions of ours.
#[must_use]
pub fn all() -> Vec<Arc<ScalarUDF>> {
    let functions = json::functions().into_iter().chain([queue::function()]);
    functions
        .map(|function| Arc::new(function.into_udf()))
        .collect()
}
