//! Reads payloads back from segment files, checking each one's checksum.
//!
//! Messages of a queue that lie near each other are read with one call.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::format::checksum::crc32c;
use crate::queue::index::Place;
use crate::wal::segment::{Segment, Segments};

/// Most bytes between two payloads that are read with one call.
const BRIDGED_BYTES: u64 = 16 * 1024;
/// Most bytes of one call, unless a single payload is larger.
const RUN_BYTES_MAX: u64 = 1024 * 1024;

/// Why a payload was not read.
#[derive(Clone, Debug)]
pub(crate) enum Unread {
    /// Its bytes are not what was written.
    Damaged { place: String },
    /// The disk said no.
    Disk {
        place: String,
        source: Arc<io::Error>,
    },
}

/// Reads the payloads of `places`, in order; ends with the first that can not be read.
pub(crate) fn read(segments: &Segments, places: &[Place]) -> Vec<Result<Bytes, Unread>> {
    let mut payloads = Vec::with_capacity(places.len());
    let mut rest = places;
    while let Some(first) = rest.first() {
        let Some(segment) = segments
            .holding(first.position)
            .filter(|_| !first.is_lost())
        else {
            let place = format!("the log near position {}", first.position);
            payloads.push(Err(Unread::Damaged { place }));
            return payloads;
        };
        let (run, behind) = rest.split_at(run_length(segments, &segment, rest));
        rest = behind;
        for payload in read_run(&segment, first.position, run) {
            let is_last = payload.is_err();
            payloads.push(payload);
            if is_last {
                return payloads;
            }
        }
    }
    payloads
}

fn end(place: &Place) -> u64 {
    place.position + u64::from(place.length)
}

/// How many of `places`, at least one, to read at once.
fn run_length(segments: &Segments, segment: &Segment, places: &[Place]) -> usize {
    let start = places.first().map_or(0, |place| place.position);
    let joins = |(before, place): &(&Place, &Place)| {
        !place.is_lost()
            && place.position >= end(before)
            && place.position - end(before) <= BRIDGED_BYTES
            && end(place) - start <= RUN_BYTES_MAX
            && segments
                .holding(place.position)
                .is_some_and(|other| other.path == segment.path)
    };
    let pairs = places.iter().zip(places.iter().skip(1));
    1 + pairs.take_while(joins).count()
}

fn read_run(segment: &Segment, start: u64, run: &[Place]) -> Vec<Result<Bytes, Unread>> {
    let length = run.last().map_or(0, |last| end(last) - start);
    let mut buffer = BytesMut::zeroed(usize::try_from(length).expect("bounded by one append"));
    match segment
        .file
        .read_at(&mut buffer, segment.file_offset(start))
    {
        Ok(count) => buffer.truncate(count),
        Err(source) => {
            return vec![Err(Unread::Disk {
                place: segment.path.clone(),
                source: Arc::new(source),
            })];
        }
    }
    let buffer = buffer.freeze();
    let payload = |place: &Place| {
        let from = usize::try_from(place.position - start).expect("inside the run");
        let to = from + place.length as usize;
        let is_whole = buffer
            .get(from..to)
            .is_some_and(|bytes| crc32c(&[bytes]) == place.checksum);
        if is_whole {
            Ok(buffer.slice(from..to))
        } else {
            let place = format!("{} at position {}", segment.path, place.position);
            Err(Unread::Damaged { place })
        }
    };
    run.iter().map(payload).collect()
}
