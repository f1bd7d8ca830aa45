//! Durable writes through the log against what the same file system can do, measured in the same run.
//!
//! Both take turns in short stretches, so that what else happens on the machine hits both alike. Ratios
//! travel between machines; the absolute numbers do not. The log is kept short as tiering would keep it, so
//! that segments are used again: writing into new ones costs the zeros that they are made of.
//!
//! 1. 64 producers, each with a batch of 64 messages of 1 KiB on the way (4 MiB outstanding), against the best
//!    of 1 MiB raw: through the cache with one in flight, past it with one and with four.
//! 2. 64 producers with one message of 1 KiB each, against raw writes of 64 KiB.
//! 3. One producer with one message of 1 KiB, against raw writes of 4 KiB: p50 and p99.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use common::producers::{Shape, produce};
use common::{Load, Threads, raw, tell};
use millpond_storage::disk::Way;
use millpond_storage::disk::local::LocalDisk;

const ROUNDS: u32 = 3;
const RAW_TIME: Duration = Duration::from_millis(400);
const LOG_TIME: Duration = Duration::from_millis(1500);
const WARM_TIME: Duration = Duration::from_secs(4);

const MANY: Shape = Shape {
    producers: 64,
    batch: 64,
};
const CLOSED_LOOP: Shape = Shape {
    producers: 64,
    batch: 1,
};
const ALONE: Shape = Shape {
    producers: 1,
    batch: 1,
};

/// Adds a stretch of raw writes to each way that this file system has.
fn add_raw(disk: &LocalDisk, bytes: usize, ways: &mut [(Way, u64, Load)]) {
    for (way, in_flight, sum) in ways {
        if let Some(load) = raw(disk, *way, bytes, *in_flight, RAW_TIME) {
            sum.add(load);
        }
    }
}

fn best(ways: &[(Way, u64, Load)]) -> f64 {
    let measured = ways.iter().filter(|(_, _, load)| load.bytes > 0);
    let rates = measured.map(|(_, _, load)| load.bytes_per_second());
    rates.fold(0.0, f64::max)
}

fn ways(in_flight: &[(Way, u64)]) -> Vec<(Way, u64, Load)> {
    let way = |&(way, count)| (way, count, Load::default());
    in_flight.iter().map(way).collect()
}

fn main() {
    if common::is_test() {
        return;
    }
    let folder = common::folder();
    let threads = Threads::start();
    let (service, background) = (&threads.service, &threads.background);
    let disk = LocalDisk::open(folder.path().join("raw")).expect("the folder is new");
    let storage = service.block_on(common::open(&folder.path().join("log"), &threads.lanes()));
    storage.choose_wal_io();
    let topic = Arc::new(AtomicU64::new(1));
    let log = |shape, time| {
        let producing = produce(&storage, background.handle(), &topic, shape, time);
        service.block_on(producing)
    };

    // Segments grow and are used again only after a while, as in a server that has run for a while.
    log(MANY, WARM_TIME);
    let both = [(Way::Buffered, 1), (Way::Direct, 1)];
    let mut large = ways(&[(Way::Buffered, 1), (Way::Direct, 1), (Way::Direct, 4)]);
    let (mut middle, mut small) = (ways(&both), ways(&both));
    let (mut many, mut looped, mut alone) = (Load::default(), Load::default(), Load::default());
    for _ in 0..ROUNDS {
        add_raw(&disk, 1024 * 1024, &mut large);
        many.add(log(MANY, LOG_TIME));
        add_raw(&disk, 64 * 1024, &mut middle);
        looped.add(log(CLOSED_LOOP, LOG_TIME));
        add_raw(&disk, 4096, &mut small);
        alone.add(log(ALONE, LOG_TIME));
    }
    service.block_on(storage.close());

    for (bytes, ways) in [("1 MiB", &large), ("64 KiB", &middle), ("4 KiB", &small)] {
        for (way, in_flight, load) in ways.iter().filter(|(_, _, load)| load.bytes > 0) {
            tell(
                &format!("raw {bytes}, {way:?}, {in_flight} in flight"),
                load,
            );
        }
    }
    tell("log, 64 producers with 64 messages of 1 KiB each", &many);
    tell("log, 64 producers with one message of 1 KiB each", &looped);
    tell("log, one producer with one message of 1 KiB", &alone);
    let percent = |ours: f64, raw: f64| ours / raw * 100.0;
    println!(
        "ratio: {:.0} % of the best raw 1 MiB with 4 MiB outstanding",
        percent(many.bytes_per_second(), best(&large))
    );
    println!(
        "ratio: {:.0} % of the best raw 64 KiB with 64 producers in a closed loop",
        percent(looped.bytes_per_second(), best(&middle))
    );
    for quantile in [50, 99] {
        let raws = small.iter_mut().filter(|(_, _, load)| load.bytes > 0);
        let raw = raws.map(|(_, _, load)| load.quantile_us(quantile));
        let raw = raw.fold(f64::INFINITY, f64::min);
        let ours = alone.quantile_us(quantile);
        println!(
            "ratio: {:.2} of a raw 4 KiB write at p{quantile}, one producer ({ours:.0} us, raw {raw:.0} us)",
            ours / raw
        );
    }
}
