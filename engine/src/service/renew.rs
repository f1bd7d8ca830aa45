//! Renews leases while their consumers live.
//!
//! A push consumer leaves the invisible time to the server (`auto_renew`). What it gets is invisible for
//! [`limits::INVISIBLE_MS_DEFAULT`] and renewed before that ends, for as long as the client is heard of:
//! its heartbeats, polls, pulls, settings and changes of invisible times count, its sends and acks do not. The handle stays what it is. A client that falls silent keeps its
//! messages until it counts as gone and the last renewal ends; one that says goodbye, or hangs up and is silent,
//! gives them back at once ([`Parting`]). Who is to be renewed stands in the log, so that a restart changes nothing.

use std::time::Duration;

use millpond_proto::limits;

use crate::service::parting::Parting;

/// How often leases are looked at.
const PAUSE: Duration = Duration::from_secs(5);
/// A lease that ends within this time is renewed.
const WITHIN_MS: i64 = 20_000;

/// Renews until the server stops.
pub async fn renewal(parting: Parting) {
    let stopping = std::pin::pin!(parting.gate.stopping());
    let renewing = std::pin::pin!(async {
        loop {
            parting.gate.clock().sleep(PAUSE).await;
            parting.sweep().await;
            turn(&parting).await;
        }
    });
    futures::future::select(stopping, renewing).await;
}

async fn turn(parting: &Parting) {
    let Parting { gate, clients, .. } = parting;
    let Some(open) = gate.opened() else {
        return;
    };
    let now = gate.clock().now();
    let lives = |consumer: &str| clients.lives(consumer, now);
    let renewed = open
        .broker
        .renew_leases(WITHIN_MS, limits::INVISIBLE_MS_DEFAULT, lives);
    if let Err(error) = renewed.await {
        tracing::warn!(%error, "leases were not renewed; trying again");
    }
}
