//! `queue_of(key, queues)`: the queue that messages with this key go to.

use std::sync::Arc;

use arrow::array::{AsArray as _, Int32Array};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::logical_expr::TypeSignature;
use millpond_proto::message::queue_of;

use crate::function::scalar::Scalar;

/// The function.
#[must_use]
pub fn function() -> Scalar {
    Scalar {
        name: "queue_of",
        arguments: TypeSignature::Exact(vec![DataType::Utf8, DataType::Int64]),
        returns: DataType::Int32,
        compute: |arguments, rows| {
            let keys = arguments[0].as_string::<i32>();
            let queues = arguments[1].as_primitive::<Int64Type>();
            let found = keys
                .iter()
                .zip(queues.iter())
                .take(rows)
                .map(|(key, queues)| {
                    let queues = u32::try_from(queues?).ok().filter(|queues| *queues > 0)?;
                    i32::try_from(queue_of(key?.as_bytes(), queues).0).ok()
                });
            Ok(Arc::new(found.collect::<Int32Array>()))
        },
    }
}
