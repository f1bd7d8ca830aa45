//! `weighted_avg(value, weight)`: the mean in which each value counts as much as its weight.
//!
//! Pairs with a NULL are passed over; without any weight the mean is NULL.

use arrow::array::{Array as _, ArrayRef, AsArray as _};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::ScalarValue;

use crate::function::user::{CallError, RunningAggregate, Shape, UserAggregate};

/// The function.
#[derive(Debug)]
pub struct WeightedAvg {
    shape: Shape,
}

impl Default for WeightedAvg {
    fn default() -> Self {
        Self {
            shape: Shape {
                name: "weighted_avg".to_owned(),
                arguments: vec![DataType::Float64; 2],
                returns: DataType::Float64,
            },
        }
    }
}

impl UserAggregate for WeightedAvg {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn state(&self) -> Vec<DataType> {
        vec![DataType::Float64; 2]
    }

    fn start(&self) -> Box<dyn RunningAggregate> {
        Box::new(Sums::default())
    }
}

#[derive(Debug, Default)]
struct Sums {
    weighted: f64,
    weights: f64,
}

impl Sums {
    /// Adds pairs of two columns, the first times what `factor` makes of the second.
    fn add_pairs(&mut self, columns: &[ArrayRef], factor: fn(f64) -> f64) {
        let [first, second] = columns else { return };
        let first = first.as_primitive::<Float64Type>();
        let second = second.as_primitive::<Float64Type>();
        for row in 0..first.len().min(second.len()) {
            if first.is_valid(row) && second.is_valid(row) {
                self.weighted += first.value(row) * factor(second.value(row));
                self.weights += second.value(row);
            }
        }
    }
}

impl RunningAggregate for Sums {
    fn add(&mut self, arguments: &[ArrayRef]) -> Result<(), CallError> {
        self.add_pairs(arguments, |weight| weight);
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef]) -> Result<(), CallError> {
        // What rested is weighted already.
        self.add_pairs(states, |_| 1.0);
        Ok(())
    }

    fn rest(&self) -> Result<Vec<ScalarValue>, CallError> {
        Ok(vec![
            ScalarValue::Float64(Some(self.weighted)),
            ScalarValue::Float64(Some(self.weights)),
        ])
    }

    fn value(&self) -> Result<ScalarValue, CallError> {
        let has_weight = self.weights != 0.0;
        Ok(ScalarValue::Float64(
            has_weight.then(|| self.weighted / self.weights),
        ))
    }

    fn bytes(&self) -> usize {
        0
    }
}
