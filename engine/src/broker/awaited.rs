//! Topics to come: a consumer may be there before the topic that it waits for.

use std::time::Duration;

use millpond_proto::name::TopicName;
use millpond_proto::time::within;

use crate::broker::{Broker, BrokerError};

/// What polls for topics to come are counted under: no group has this id.
const NO_GROUP: u64 = 0;

impl Broker {
    /// Waits until a topic is there, at most so long; false when it is not there by then, or this run of
    /// the broker ended meanwhile.
    ///
    /// # Errors
    /// [`BrokerError::TooMany`] when too many polls wait already.
    pub async fn await_topic(
        &self,
        name: &TopicName,
        at_most: Duration,
    ) -> Result<bool, BrokerError> {
        let mut catalog = self.incarnation()?.catalog_changes();
        let is_there = |name: &TopicName| self.catalog().topic(name.as_str()).is_some();
        if at_most.is_zero() || is_there(name) {
            return Ok(is_there(name));
        }
        let _parked = self.parking.park(NO_GROUP)?;
        let made = catalog.wait_for(|catalog| catalog.topic(name.as_str()).is_some());
        let made = async { made.await.is_ok() };
        let made = within(self.parts.clock.as_ref(), at_most, made).await;
        Ok(made.unwrap_or(false))
    }
}
