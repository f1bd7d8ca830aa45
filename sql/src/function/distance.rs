//! `great_circle_km(lat, lon, lat, lon)`: the way between two places on the globe, in kilometres.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Float64Array};
use arrow::datatypes::{DataType, Float64Type};

use crate::function::user::{CallError, Shape, UserScalar};

/// Mean radius of the earth.
const RADIUS_KM: f64 = 6371.0088;

/// The function.
#[derive(Debug)]
pub struct GreatCircle {
    shape: Shape,
}

impl Default for GreatCircle {
    fn default() -> Self {
        Self {
            shape: Shape {
                name: "great_circle_km".to_owned(),
                arguments: vec![DataType::Float64; 4],
                returns: DataType::Float64,
            },
        }
    }
}

impl UserScalar for GreatCircle {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn call(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef, CallError> {
        let degrees: Vec<&Float64Array> = arguments
            .iter()
            .map(|argument| argument.as_primitive::<Float64Type>())
            .collect();
        let [from_lat, from_lon, to_lat, to_lon] = degrees.as_slice() else {
            return Err(CallError {
                function: self.shape.name.clone(),
                what: "it takes two latitudes and longitudes, in degrees".to_owned(),
            });
        };
        let value = |row: usize| {
            let at = |column: &Float64Array| column.is_valid(row).then(|| column.value(row));
            let from = (at(from_lat)?.to_radians(), at(from_lon)?.to_radians());
            let to = (at(to_lat)?.to_radians(), at(to_lon)?.to_radians());
            Some(way_km(from, to))
        };
        Ok(Arc::new((0..rows).map(value).collect::<Float64Array>()))
    }
}

/// The haversine formula.
fn way_km(from: (f64, f64), to: (f64, f64)) -> f64 {
    let half = |angle: f64| (angle / 2.0).sin().powi(2);
    let chord = half(to.0 - from.0) + from.0.cos() * to.0.cos() * half(to.1 - from.1);
    2.0 * RADIUS_KM * chord.sqrt().clamp(0.0, 1.0).asin()
}
