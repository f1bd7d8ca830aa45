//! The list of our functions and of users', which every session knows.

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

use crate::function::distance::GreatCircle;
use crate::function::user::{self, UserAggregate, UserScalar};
use crate::function::weighted::WeightedAvg;
use crate::function::{
    digest, digits, json, json_items, json_made, json_path, queue, sliding, url, version,
    written_time,
};

/// Functions of users from a row to a value: to add one, list it here.
fn user_scalars() -> Vec<Arc<dyn UserScalar>> {
    vec![Arc::new(GreatCircle::default())]
}

/// Aggregates of users: to add one, list it here.
fn user_aggregates() -> Vec<Arc<dyn UserAggregate>> {
    vec![Arc::new(WeightedAvg::default())]
}

/// All functions of a row.
#[must_use]
pub fn scalars() -> Vec<Arc<ScalarUDF>> {
    let ours = json::functions().into_iter();
    let ours = ours
        .chain(json_path::functions())
        .chain(json_made::functions())
        .chain(json_items::functions());
    let ours = ours.chain(digest::functions()).chain(digits::functions());
    let ours = ours.chain(url::functions());
    let ours = ours.chain([queue::function(), version::function()]);
    let ours = ours.map(|function| Arc::new(function.into_udf()));
    let ours = ours.chain([Arc::new(written_time::function())]);
    let users = user_scalars().into_iter();
    ours.chain(users.map(|function| Arc::new(user::scalar(function))))
        .collect()
}

/// All functions of the rows of a group.
#[must_use]
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let users = user_aggregates().into_iter();
    let users = users.map(|function| Arc::new(user::aggregate(function)));
    users.chain(sliding::functions()).collect()
}
