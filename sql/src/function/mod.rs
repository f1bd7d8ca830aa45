//! Functions of ours and of users, beside those of the query engine.
//!
//! A function sees its arguments and nothing else, so that a continuous query which replays computes the same. To add
//! one of your own: implement [`user::UserScalar`] as [`distance`] does, or [`user::UserAggregate`] as [`weighted`]
//! does, in a file here, and list it in [`all`]. Statements and continuous queries then know it, windows and tables
//! that change included.
//!
//! Reading order: [`user`] (the seam), [`distance`] (`great_circle_km`), [`weighted`] (`weighted_avg`), [`scalar`] (the shorter seam of
//! our own), [`json`] (`json_get_str` and its kin, `->`, `->>`), [`json_path`] (`json_value` and its kin), [`json_made`] (`json_object` and its kin), [`json_items`] (arrays as lists; `json_text` finds the parts of a text for all of them), [`digest`], [`digits`], [`url`], [`queue`], [`sliding`] (`min` and `max`), [`version`], [`written_time`] (`to_char`),
//! [`pattern`] (formats of times), [`calendar`] (stretches of times), [`series`] (`generate_series` within a bound). Functions that are others' names for what there is stand in `statement/spelling.rs`.

pub mod all;
pub mod calendar;
pub mod digest;
pub mod digits;
pub mod distance;
pub mod json;
pub mod json_items;
pub mod json_made;
pub mod json_path;
pub(crate) mod json_text;
pub mod pattern;
pub mod queue;
pub mod scalar;
pub mod series;
pub(crate) mod sliding;
pub mod url;
pub mod user;
pub mod version;
pub mod weighted;
pub mod written_time;
