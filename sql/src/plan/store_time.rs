//! Windows over the time at which rows were stored.
//!
//! Store time needs no declaration: it never goes back, and a row of a tick was stored in that tick. So a watermark
//! without delay holds back nothing and makes no row late, and a topic that is read by windows over `_stored_at`
//! is read as if it had been declared. A topic's own watermark is left out for such a query: one input
//! has one time.

use crate::topic::{TopicInfo, WatermarkSpec};

/// The system column that holds it.
const STORED_AT: &str = "_stored_at";

/// The topic as a query with windows over this column reads it.
pub(crate) fn timed(topic: &TopicInfo, time_column: Option<&str>) -> TopicInfo {
    let mut topic = topic.clone();
    if time_column == Some(STORED_AT) {
        topic.watermark = Some(WatermarkSpec {
            column: STORED_AT.to_owned(),
            delay_ms: 0,
            behind: Vec::new(),
        });
    }
    topic
}
