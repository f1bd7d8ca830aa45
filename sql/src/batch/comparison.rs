//! Conditions on where a row lies: what they leave of the queues that are read.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use millpond_proto::message::Offset;

use crate::batch::tail::QueueRange;

/// `_queue` or `_offset` compared with a constant.
#[derive(Debug)]
pub(crate) struct Comparison {
    of_queue: bool,
    operator: Operator,
    value: i64,
}

/// What a condition says of them, if it is such a comparison.
pub(crate) fn comparison(filter: &Expr) -> Option<Comparison> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    let (column, operator, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    let of_queue = match column.name.as_str() {
        "_queue" => true,
        "_offset" => false,
        _ => return None,
    };
    let value = match value {
        ScalarValue::Int32(Some(value)) => i64::from(*value),
        ScalarValue::Int64(Some(value)) => *value,
        _ => return None,
    };
    matches!(
        operator,
        Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    )
    .then_some(Comparison {
        of_queue,
        operator,
        value,
    })
}

impl Comparison {
    /// Cuts a range to what can satisfy the comparison; `false` when nothing of the queue can.
    pub(crate) fn cut(&self, queue: &mut QueueRange, latest: bool) -> bool {
        if self.of_queue {
            let id = i64::from(queue.queue.0);
            return match self.operator {
                Operator::Eq => id == self.value,
                Operator::Lt => id < self.value,
                Operator::LtEq => id <= self.value,
                Operator::Gt => id > self.value,
                Operator::GtEq => id >= self.value,
                _ => true,
            };
        }
        // Which row of a key is its last is decided over the whole queue.
        if latest {
            return true;
        }
        let from = |value: i64| Offset(u64::try_from(value).unwrap_or(0));
        let (first, next) = match self.operator {
            Operator::Eq => (Some(self.value), self.value.checked_add(1)),
            Operator::Lt => (None, Some(self.value)),
            Operator::LtEq => (None, self.value.checked_add(1)),
            Operator::Gt => (self.value.checked_add(1), None),
            Operator::GtEq => (Some(self.value), None),
            _ => (None, None),
        };
        let range = &mut queue.offsets;
        range.start = range.start.max(first.map_or(Offset(0), from));
        range.end = range.end.min(next.map_or(range.end, from));
        range.start < range.end
    }
}
